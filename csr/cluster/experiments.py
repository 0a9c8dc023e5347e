"""The runs of one SLURM job: numbered, or one for each line of a file."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from csr.cluster.slurm_job import task_numbers
from csr.config.checks import check_ranges
from csr.config.flags import parse_train_flags
from csr.config.options import TrainConfig
from csr.runtime.errors import InputError


@dataclass(frozen=True)
class Experiments:
    """The runs of one job: their flags, checked, and how the job gets them.

    Attributes:
        configs: of each run that is known: one if it is no array; of a numbered array, whose name
            ends in %a, SLURM's pattern of the task number.
        lines: flags by task, if they came from a file; task N has line N.
        array: task numbers as SLURM writes them, or None.
    """

    configs: list[TrainConfig]
    lines: list[list[str]]
    array: str | None


def experiments_of(
    flags: list[str], base: TrainConfig, *, file: Path | None, array: str | None
) -> Experiments:
    """Return one run, a numbered one for the tasks of `array`, or one for each line of `file` that is to run.

    Args:
        flags: common to all runs.
        base: the options of these flags.
        file: of `--experiments`.
        array: of `--array`; sbatch checks it. With a file its task numbers are those of lines.

    Raises:
        InputError: a line that csr train would refuse, or a task number without a line.
    """
    if file is not None:
        lines, configs = read_experiments(file, flags)
        tasks = array or f"1-{len(lines)}"
        try:
            numbers = task_numbers(tasks)
        except ValueError:
            raise InputError(
                f"--array {tasks!r}: with --experiments give lines as 1-8, 1,4,7 or 1-100%4 (four at a time)"
            ) from None
        beyond = [n for n in numbers if not 1 <= n <= len(lines)]
        if beyond:
            raise InputError(f"--array {tasks}: {file} has no experiment {beyond[0]}")
        return Experiments([configs[n - 1] for n in numbers], lines, tasks)
    return Experiments([base if array is None else numbered(base)], [], array)


def numbered(base: TrainConfig) -> TrainConfig:
    """Return the options of the tasks of an array: the name ends in the number of the task."""
    config = replace(base, run=replace(base.run, exp_name=f"{base.run.exp_name}_%a"))
    check_ranges(config)
    return config


def read_experiments(path: Path, flags: list[str]) -> tuple[list[list[str]], list[TrainConfig]]:
    """Return the flags on each line that is neither empty nor a comment, and what they resolve to.

    Raises:
        InputError: naming the row: a line that csr train would refuse, or a result folder used twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--experiments {path}: cannot be read ({error})") from None
    lines: list[list[str]] = []
    configs: dict[Path, TrainConfig] = {}
    for row, line in enumerate(text.split("\n"), start=1):
        try:
            words = shlex.split(line, comments=True)
            config = parse_train_flags([*flags, *words])
        except ValueError as error:  # an open quote, or an InputError
            raise InputError(f"{path}, row {row}: {error}") from None
        if not words:
            continue
        if config.folder in configs:
            raise InputError(
                f"{path}, row {row}: another experiment writes {config.folder}: give another --exp_name"
            )
        lines.append(words)
        configs[config.folder] = config
    if not lines:
        raise InputError(f"{path}: there is no experiment in it")
    return lines, list(configs.values())


def lines_text(lines: list[list[str]]) -> str:
    """Return the file that the job's shell reads: the flags of task N on line N, quoted."""
    return "".join(f"{shlex.join(words)}\n" for words in lines)
