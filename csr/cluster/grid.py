"""The runs of a sweep: every combination of the values that a JSON file lists for options of csr train."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr.cluster.slurm_job import plain_name
from csr.config.compared_options import OF_NO_MATTER, difference, option_differences
from csr.config.flags import parse_train_flags
from csr.config.from_json import config_of
from csr.config.option_field import AUTO, fields_of, fits
from csr.config.options import TrainConfig, groups
from csr.config.parser import did_you_mean
from csr.config.typed_paths import PATHS, leading_elsewhere
from csr.runtime.errors import InputError
from csr.runtime.json_file import parse_json, read_json, read_text

MOST_RUNS = 10_000
SET_BY_THE_SWEEP = ("exp_name", "output_dir", "overwrite", "resume", "dry_run")
CONFIG, RESULTS = "config.json", "results.json"
_LONGEST = 100  # characters of a value in the name of its run
_MEASURED = {"batch_size", "accumulation", "effective_batch"}  # a run records what --batch_size auto found


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        words: flags that it has beside those of all runs, its name among them.
        config: all its options.
    """

    words: tuple[str, ...]
    config: TrainConfig

    @property
    def name(self) -> str:
        return self.config.run.exp_name

    def state(self) -> str:
        """Return "done", "unfinished" or "to do"; it is done where its folder holds results of these options.

        Raises:
            InputError: the folder holds results of other options.
        """
        folder = self.config.folder
        if not (folder / RESULTS).is_file():
            return "unfinished" if (folder / CONFIG).is_file() else "to do"
        try:
            earlier = config_of(read_json(folder / CONFIG)["options"], where=str(folder / CONFIG))
        except InputError:
            raise
        except (OSError, ValueError, LookupError, TypeError):
            raise InputError(f"{folder}: holds results without a {CONFIG}: move it away") from None
        differing = _differences(folder, earlier, self.config)
        if differing:
            raise InputError(
                f"{folder}: holds results of other options: {'; '.join(differing)}: move it away, or give "
                "another --exp_name"
            )
        return "done"


def _differences(folder: Path, earlier: TrainConfig, now: TrainConfig) -> list[str]:
    """Return a text for each option that decides a run's results and was another one."""
    may_differ = {*OF_NO_MATTER, *PATHS, *(_MEASURED if now.optim.batch_size == AUTO else ())}
    if now.data.image_size == AUTO:
        try:
            from csr.training.build import with_native_size  # takes a second to import

            now = with_native_size(now)
        except InputError:  # the weights are not here, where the results are
            may_differ.add("image_size")
    places = leading_elsewhere(folder, earlier, now)
    return [
        *(difference(name, was, given) for name, (was, given) in places.items()),
        *option_differences(earlier.to_dict(), now.to_dict(), may_differ=may_differ),
    ]


def read_grid(path: Path, flags: Sequence[str]) -> tuple[list[SweepRun], tuple[str, ...]]:
    """Return a run for every combination, the last option of the file changing fastest.

    Args:
        path: JSON, an object of option -> list of values, as `{"seed": [0, 1, 2], "lr": [1e-4, 3e-4]}`.
        flags: common to all runs.

    Returns:
        The runs, and the names of the options that differ between them.

    Raises:
        InputError: the file cannot be read, names no option of csr train, or a run cannot be used.
    """
    values = _read_values(path)
    for name in values:
        if any(_is_flag(word, name) for word in flags):
            raise InputError(f"{path}: lists {name!r}, which stands after -- too: omit --{name} there")
    if "fold" in values and "folds" not in values:
        raise InputError(f'{path}: lists "fold" alone: list "folds" too, as "folds": [5]')
    base = parse_train_flags(list(flags))
    if base.run.overwrite or base.run.resume != "auto":
        raise InputError(
            "csr sweep skips finished runs and resumes others: omit --overwrite and --resume (move the "
            "folder of a run away to train it again)"
        )
    number = 1
    for of_option in values.values():
        number *= len(of_option)
    if number > MOST_RUNS:
        raise InputError(f"{path}: {number} runs are more than {MOST_RUNS}: list fewer values")
    runs: dict[Path, SweepRun] = {}
    for chosen in itertools.product(*values.values()):
        run = _run(path, base, flags, dict(zip(values, chosen, strict=True)))
        if run.config.folder in runs:
            raise InputError(f"{path}: two runs would write {run.config.folder}: a value is there twice")
        runs[run.config.folder] = run
    return list(runs.values()), tuple(values)


def _is_flag(word: str, name: str) -> bool:
    return word == f"--{name}" or word.startswith(f"--{name}=")


def _read_values(path: Path) -> dict[str, list[Any]]:
    try:
        content = parse_json(read_text(path), make_object=_without_repeats)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): give a JSON file") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({str(error)[:120]}): write it as {EXAMPLE}") from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds no options: write it as {EXAMPLE}")
    options = {name: field for group in groups().values() for name, field in fields_of(group).items()}
    for name, values in content.items():
        if name not in options:
            raise InputError(f"{path}: {name!r} is no option of csr train{did_you_mean(name, options)}")
        if name in SET_BY_THE_SWEEP:
            raise InputError(f"{path}: {name!r} is not for a sweep: give it after --, for all runs")
        if not isinstance(values, list) or not values:
            raise InputError(f"{path}: {name!r}: give a list of values, as {EXAMPLE}")
        for value in values:
            if not fits(value, options[name]):
                raise InputError(f"{path}: {name!r}: {str(value)[:40]!r} is no value of --{name}")
    return content


EXAMPLE = '{"seed": [0, 1, 2], "lr": [1e-4, 3e-4]}'


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is there twice")
    return dict(pairs)


def _run(path: Path, base: TrainConfig, flags: Sequence[str], chosen: dict[str, Any]) -> SweepRun:
    parts = [f"{name}{_named(_text(value))}" for name, value in chosen.items()]
    words = [word for name, value in chosen.items() for word in words_of(name, value)]
    words += ["--exp_name", "-".join([base.run.exp_name, *parts])]
    try:
        return SweepRun(tuple(words), parse_train_flags([*flags, *words]))
    except InputError as error:
        listed = ", ".join(f"{name} {_text(value)}" for name, value in chosen.items())
        raise InputError(f"{path}: the run with {listed}: {error}") from None


def _named(text: str) -> str:
    """Return a value as a part of a folder's name; what does not fit in is told apart by a hash."""
    if len(text) <= _LONGEST and text.isascii():
        return plain_name(text)
    return f"{plain_name(text[-_LONGEST:])}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "_".join(value) if isinstance(value, list) else str(value)


def words_of(name: str, value: Any) -> list[str]:
    """Return the words of a command line that give an option its value; none for None and False."""
    if value is None:  # as without the flag
        return []
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    if value == AUTO:
        return [f"--{name}=auto"]
    return [f"--{name}", *value] if isinstance(value, list | tuple) else [f"--{name}={value}"]
