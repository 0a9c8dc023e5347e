"""A finished run as comparisons read it: options, thresholds, cost and test predictions; untrusted files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csr.config.checks import unused_options
from csr.config.from_json import config_of
from csr.evaluation.comparison.predictions import FILE_NAME, Predictions, read_predictions
from csr.model.sharing.config_file import CONFIG, read_config
from csr.model.sharing.reference import DEFAULT_THRESHOLD
from csr.model.sharing.reference import FILE_NAME as REFERENCE
from csr.runtime.errors import InputError
from csr.runtime.json_file import parse_json, read_text
from csr.runtime.monitor import METRICS

RESULTS = "results.json"
MAX_METRICS_BYTES = 2**28


@dataclass(frozen=True)
class Cost:
    """What training took; None where a run did not record it.

    Attributes:
        seconds: of training steps and of what frozen layers computed, by stage.
        memory_mib: peak of the rank with the largest, of the GPU where there is one.
        ranks: number of processes.
    """

    seconds: dict[str, float] | None
    memory_mib: float | None
    ranks: int | None

    @property
    def total_seconds(self) -> float | None:
        return None if self.seconds is None else sum(self.seconds.values())


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One finished run.

    Attributes:
        name: of its folder.
        folder: as given.
        options: resolved options of `csr train` by name, and what a run settled itself (`facts_of`).
        thresholds: kind -> name of a label -> probability from which it is called.
        exactly_one: whether exactly one target holds, the likeliest.
        cost: of training.
        predictions: of the test images.
        num_training: images that it was trained on, without those of validation; None where unknown.
    """

    name: str
    folder: Path
    options: dict[str, Any]
    thresholds: dict[str, dict[str, float]]
    exactly_one: bool
    cost: Cost
    predictions: Predictions
    num_training: int | None = None

    @property
    def unused(self) -> tuple[str, ...]:
        """Options that do nothing in this run: those of prototypes, of a baseline."""
        return unused_options(self.options.get("baseline"))

    def called(self, kind: str, names: Sequence[str], probability_NL: np.ndarray) -> np.ndarray:
        """Return the decisions of the model as `csr evaluate` makes them, bool (N, L).

        Args:
            kind: `target` or `concept`.
            names: of the L labels.
            probability_NL: of these labels.
        """
        if kind == "target" and self.exactly_one:
            whole_NT = self.predictions.kinds[kind].probability_NL
            return probability_NL >= whole_NT.max(axis=1, keepdims=True)
        chosen = self.thresholds[kind]
        threshold_L = np.asarray([chosen.get(name, DEFAULT_THRESHOLD) for name in names], dtype=np.float32)
        return probability_NL >= threshold_L


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read runs, each a folder output_dir/exp_name.

    Raises:
        InputError: not a run, not finished, or broken; one error for all that lack their predictions.
    """
    configs = [_config(folder) for folder in folders]
    lacking = [str(folder) for folder in folders if not (folder / FILE_NAME).is_file()]
    if lacking:
        raise InputError(
            f"{', '.join(lacking)}: no {FILE_NAME} (runs before csr compare wrote none): give csr evaluate "
            f"RUN --csv TEST.csv --dir TEST/ --out DIR --save_predictions for each, and copy DIR/{FILE_NAME} "
            "into it"
        )
    names = unique_names(folders)
    return [_read(folder, config, name) for folder, config, name in zip(folders, configs, names, strict=True)]


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many of their parents as tell them apart.

    Raises:
        InputError: a folder is there twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise InputError(f"{folders[i]}: is there twice: name each run once")
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
        depth += 1


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give output_dir/exp_name of a run")
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: no {CONFIG} in it; give output_dir/exp_name of a run of csr train")
    if not (folder / RESULTS).is_file():
        raise InputError(f"{folder}: has no {RESULTS} yet: the same csr train command finishes the run")
    return read_config(folder / CONFIG)


def _read(folder: Path, config: dict[str, Any], name: str) -> RunRecord:
    predictions = read_predictions(folder / FILE_NAME)
    number = (_inside(config, "data", "images") or {}).get("train")
    return RunRecord(
        name=name,
        folder=folder,
        options=facts_of(config, where=str(folder / CONFIG)),
        thresholds=_thresholds(folder / REFERENCE),
        exactly_one=config.get("task_loss") == "ce",
        cost=_cost(folder / METRICS, config.get("world_size")),
        predictions=predictions,
        num_training=number if isinstance(number, int) else None,
    )


def facts_of(config: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return options by name; tables by their file name; what a run settled in place of what was asked.

    `precision` and `effective_batch` are those that were used; `training_images` counts those of training
    and validation together, and those that --num_images left unused; `csr` is the version.

    Args:
        config: content of config.json.
        where: the file, named in messages.

    Raises:
        InputError: options that are not those of `csr train`.
    """
    groups = config_of(config.get("options"), where=where).to_dict()
    facts: dict[str, Any] = {name: value for group in groups.values() for name, value in group.items()}
    for name in ("train_csv", "test_csv", "boxes_csv"):
        facts[name] = None if facts[name] is None else Path(facts[name]).name
    settled = {
        "effective_batch": config.get("effective_batch"),
        "precision": _inside(config, "precision", "name"),
        "csr": _inside(config, "versions", "csr"),
    }
    facts |= {name: value for name, value in settled.items() if value is not None}
    images = _inside(config, "data", "images")
    if isinstance(images, dict) and all(isinstance(images.get(side), int) for side in ("train", "val")):
        unused = images.get("unused")
        facts["training_images"] = (
            images["train"] + images["val"] + (unused if isinstance(unused, int) else 0)
        )
    return facts


def _inside(config: dict[str, Any], group: str, name: str) -> Any:
    value = config.get(group)
    return value.get(name) if isinstance(value, dict) else None


def _thresholds(path: Path) -> dict[str, dict[str, float]]:
    """Return the thresholds of validation images; {} of a kind that has none."""
    measured = read_config(path) if path.is_file() else {}
    thresholds: dict[str, dict[str, float]] = {}
    for kind in ("target", "concept"):
        given = measured.get(f"{kind}_thresholds") or {}
        if not isinstance(given, dict) or not all(_is_number(value) for value in given.values()):
            raise InputError(f"{path}: {kind}_thresholds: give a number for each name")
        thresholds[kind] = {name: float(value) for name, value in given.items()}
    return thresholds


def _cost(path: Path, ranks: Any) -> Cost:
    """Return the sums over metrics.jsonl, a line an epoch."""
    known_ranks = ranks if isinstance(ranks, int) else None
    if not path.is_file():
        return Cost(None, None, known_ranks)
    seconds: dict[str, float] = {}
    peaks = []
    try:
        lines = read_text(path, max_bytes=MAX_METRICS_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): move it away, or restore it") from None
    for row, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            stage, took = str(record["stage"]), float(record["seconds"])
            took += float(record.get("features_s") or 0.0)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(f"{path}, line {row}: is no record of an epoch: restore the file") from None
        seconds[stage] = seconds.get(stage, 0.0) + took
        telemetry = record.get("telemetry")
        if isinstance(telemetry, dict) and _is_number(telemetry.get("memory_mib")):
            peaks.append(float(telemetry["memory_mib"]))
    return Cost(seconds or None, max(peaks, default=None), known_ranks)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
