"""Options in which runs differ, and runs that differ in nothing but seed or fold as one group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from csr.config.compared_options import OF_NO_MATTER
from csr.config.parser import did_you_mean
from csr.evaluation.comparison.run_record import RunRecord
from csr.runtime.errors import InputError

# beside what is of no matter, where images lie and how work is shared out: data are compared by their tables,
# `effective_batch` and `precision` as they were settled
NOT_COMPARED = OF_NO_MATTER | {
    *("train_dir", "test_dir", "batch_size", "accumulation", "ds_config", "on_bad_image", "stage1_from"),
}
UNUSED = "-"  # in place of a value


@dataclass(frozen=True)
class Group:
    """Runs whose mean is one row.

    Attributes:
        name: of the run, or of the options that tell the group from others.
        runs: places in the list of runs.
        keys: value of the options of --by of each run.
    """

    name: str
    runs: tuple[int, ...]
    keys: tuple[tuple[Any, ...], ...]


def differences(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the options that are not the same in all runs that they matter in.

    Returns:
        name -> value of each run; None where unknown, `UNUSED` where the option does nothing.
    """
    names = dict.fromkeys(name for run in runs for name in run.options if name not in NOT_COMPARED)
    values = {name: [_value(run, name) for run in runs] for name in names}
    return {
        name: of_runs
        for name, of_runs in values.items()
        if len({_key(value) for value in of_runs if value is not UNUSED}) > 1
    }


def _value(run: RunRecord, name: str) -> Any:
    return UNUSED if name in run.unused else run.options.get(name)


def option_shown(run: RunRecord, name: str) -> str | None:
    """Return an option and its value for the name of a group; None where it does nothing in this run."""
    value = _value(run, name)
    return None if value is UNUSED else f"{name} {shown(value)}"


def group_runs(runs: Sequence[RunRecord], by: Sequence[str]) -> list[Group]:
    """Return groups of runs that differ in nothing but the options `by`; without any, each run alone.

    Args:
        runs: at least one.
        by: names of options, such as seed and fold.

    Raises:
        InputError: no such option, or two runs of a group that do not differ in `by`.
    """
    if not by:
        return [Group(run.name, (i,), ((),)) for i, run in enumerate(runs)]
    known = [name for name in runs[0].options if name not in NOT_COMPARED]
    for name in by:
        if name not in known:
            raise InputError(
                f"--by {name}: no option of csr train that runs differ in{did_you_mean(name, known)}"
            )
    differ = [name for name in differences(runs) if name not in by]
    members: dict[tuple[str, ...], list[int]] = {}
    for i, run in enumerate(runs):
        members.setdefault(tuple(_key(_value(run, name)) for name in differ), []).append(i)
    groups = []
    for places in members.values():
        places.sort(
            key=lambda i: _key([runs[i].options.get(name) for name in by])
        )  # pairs runs of two groups
        first = runs[places[0]]
        parts = [text for name in differ if (text := option_shown(first, name)) is not None]
        keys = tuple(tuple(_plain(runs[i].options.get(name)) for name in by) for i in places)
        _check_apart([runs[i].name for i in places], keys, by)
        groups.append(Group(", ".join(parts) or "all runs", tuple(places), keys))
    return groups


def _check_apart(names: Sequence[str], keys: Sequence[tuple[Any, ...]], by: Sequence[str]) -> None:
    for i, key in enumerate(keys):
        if key in keys[:i]:
            same = ", ".join(f"{name} {shown(value)}" for name, value in zip(by, key, strict=True))
            raise InputError(
                f"{names[keys.index(key)]} and {names[i]}: have the same options and {same}: leave one out"
            )


def are_paired(first: Group, second: Group) -> bool:
    """Return whether the runs of two groups pair up: the same seeds and folds, in one order."""
    return bool(first.keys[0]) and first.keys == second.keys


def shown(value: Any) -> str:
    """Return an option's value as a reader sees it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _key(value: Any) -> str:
    return json.dumps(value)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
