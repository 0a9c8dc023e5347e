"""The report of a step and of an epoch: numbers for TensorBoard, a record, a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csr.engine.engine import Engine
from csr.engine.memory import memory_mib
from csr.evaluation.metrics import Metrics
from csr.runtime.monitor import Monitor
from csr.stages.base import Stage, StageOutput

MOST_SCALARS = 200  # labels with a curve of their own: TensorBoard lists thousands for minutes


def step_values(engine: Engine, stage: Stage, output: StageOutput) -> dict[str, float]:
    """Return the numbers of the step just done. A sync point: the loss is read."""
    name = stage.name
    values = {f"{name}/{key}": float(value) for key, value in output.report.items()}
    values |= {f"{name}/lr_{key}": lr for key, lr in engine.learning_rates.items()}
    return values | {
        f"{name}/loss": float(output.loss.detach()),
        f"{name}/gradient_norm": engine.gradient_norm,
        f"{name}/loss_scale": engine.loss_scale,
        f"{name}/skipped_steps": engine.skipped_steps,
        f"{name}/memory_mib": memory_mib(),
    }


def by_label(tag: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return TensorBoard's values of each label below a tag; none of more than `MOST_SCALARS` labels."""
    if len(values) > MOST_SCALARS:
        return {}
    return {f"{tag}/{label}": value for label, value in values.items()}


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
    values = {f"{name}_epoch/{k}": float(v) for k, v in record.items()}
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
            f" | F1 macro: {metrics.f1_macro:.4f} | F1 micro: {metrics.f1_micro:.4f}"
        )
    if "prototypes_alive" in record:
        line += f" | Prototypes alive: {record['prototypes_alive']}/{record['prototypes']}"
    monitor.gathered(values, step=step)
    record = {"stage": name, "epoch": epoch, "step": step, **record, "telemetry": telemetry}
    monitor.epoch_line(record)
    monitor.say(f"Epoch {epoch}/{epochs} | {line} | {record['seconds']:.1f} s")
    monitor.flush()
    return record
