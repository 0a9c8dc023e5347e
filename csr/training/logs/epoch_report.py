"""The report of a step and of an epoch: numbers for TensorBoard, a record, a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from csr.engine.engine import Engine
from csr.evaluation.metrics import Metrics
from csr.runtime.monitor import Monitor
from csr.stages.base import Stage

UNTOLD = frozenset({"images_per_s", "data_wait_s", "skipped_steps", "prototypes"})  # points tell, or constant
BAND = ("mean", "min", "max")
MOST_SCALARS = 200  # labels with a curve of their own: TensorBoard lists thousands for minutes


def optimizer_values(name: str, engine: Engine) -> dict[str, float]:
    """Return the optimizer's numbers after a step, the same on all ranks. A sync point: a norm is read.

    Groups without weight decay have the learning rate of the group that they belong to, and no curve.
    """
    rates = engine.learning_rates
    twins = {group for group in rates if group.removesuffix("_no_decay") in rates.keys() - {group}}
    values = {f"{name}/lr_{group}": lr for group, lr in rates.items() if group not in twins}
    values |= {f"{name}/gradient_norm": engine.gradient_norm, f"{name}/skipped_steps": engine.skipped_steps}
    if engine.precision == "fp16":  # no other arithmetic scales losses
        values[f"{name}/loss_scale"] = engine.loss_scale
    return values


def bands(name: str, ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return mean, least and largest value over the ranks of each number of theirs, below `NAME_ranks/`.

    Args:
        name: of the stage.
        ranks: numbers of each rank; {} of one without an image. One rank alone has no band.
    """
    seen = [rank for rank in ranks if rank]
    if len(ranks) == 1 or not seen:
        return {}
    values: dict[str, float] = {}
    for key in seen[0]:
        numbers = [rank[key] for rank in seen]
        least, largest, mean = min(numbers), max(numbers), sum(numbers) / len(numbers)
        values |= {
            f"{name}_ranks/{key}/{of}": value for of, value in zip(BAND, (mean, least, largest), strict=True)
        }
    return values


def epoch_times(name: str, rates: Mapping[str, float]) -> dict[str, float]:
    """Return this rank's account of an epoch, without what the points of its steps tell."""
    return {f"{name}_time/{key}": value for key, value in rates.items() if key not in UNTOLD}


def by_label(tag: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return TensorBoard's values of each label below a tag; none of more than `MOST_SCALARS` labels."""
    if len(values) > MOST_SCALARS:
        return {}
    return {f"{tag}/{label}": value for label, value in values.items()}


def test_values(record: Mapping[str, Any], calibration: Mapping[str, float]) -> dict[str, float]:
    """Return what the test images measured below `test/`, diagnoses before concepts; unknown ones left out.

    Args:
        record: content of results.json.
        calibration: mean calibration errors.
    """
    found = {**record["summary"], **calibration}
    known = {name: value for name, value in found.items() if value is not None and not math.isnan(value)}
    scores = ("auc", "ece", "map", "f1_macro", "f1_micro", "ece_uncalibrated")
    order = [f"{kind}_{score}" for score in scores for kind in ("target", "concept")]
    return {f"test/{name}": known[name] for name in sorted(known, key=order.index)}


def report_epoch(
    monitor: Monitor,
    stage: Stage,
    record: dict[str, Any],
    *,
    epoch: int,
    epochs: int,
    step: int,
    telemetry: dict[str, float],
) -> dict[str, Any]:
    """Print and log an epoch; return its record for the history.

    Args:
        monitor: prints and logs.
        stage: under training.
        record: of training and validation, with `metrics` where validated.
        epoch, epochs: this one (from 1) and their number.
        step: optimizer steps of all stages.
        telemetry: shares of time, of all ranks.
    """
    name = stage.name
    record = dict(record)
    metrics: Metrics | None = record.pop("metrics", None)
    values = {f"{name}_epoch/{k}": float(v) for k, v in record.items() if k not in UNTOLD}
    line = f"Train loss: {record['train_loss']:.4f}"
    if metrics is not None:
        values |= {f"{name}_epoch/{k}": v for k, v in metrics.summary().items()}
        values |= by_label(f"{name}_auc", metrics.auc_by_label)
        if len(metrics.auc_by_label) > MOST_SCALARS and epoch == 1:
            monitor.say(
                f"{len(metrics.auc_by_label)} labels: the AUC of each is in metrics.jsonl, TensorBoard has "
                "the mean"
            )
        record.update(metrics.summary(), auc_by_label=metrics.auc_by_label)
        line += (
            f" | Val loss: {record['val_loss']:.4f} | AUC: {metrics.auc:.4f} | mAP: {metrics.mean_ap:.4f}"
            f" | F1@0.5 macro: {metrics.f1_macro:.4f} | F1@0.5 micro: {metrics.f1_micro:.4f}"
        )
    if "prototypes_alive" in record:
        line += f" | Prototypes alive: {record['prototypes_alive']}/{record['prototypes']}"
    monitor.gathered(values, step=step)
    record = {"stage": name, "epoch": epoch, "step": step, **record, "telemetry": telemetry}
    monitor.epoch_line(record)
    monitor.say(f"Epoch {epoch}/{epochs} | {line} | {record['seconds']:.1f} s")
    monitor.flush()
    return record
