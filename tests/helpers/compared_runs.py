"""Folders of finished runs for comparisons: random predictions whose quality is known, no training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from train_options import train_options

from csr.evaluation.comparison.predictions import Predictions, Scored, write_predictions

NUM = 80
TARGETS, CONCEPTS = ("Tuberculosis", "<b>No | finding"), ("Cavity", "Nodule_{1}", "Rib & spine")
IMAGES = tuple(f"image{i}" for i in range(NUM))


def truth() -> dict[str, np.ndarray]:
    """Labels of the test images, some not annotated."""
    draw = np.random.default_rng(11)
    labels = {}
    for kind, names in (("target", TARGETS), ("concept", CONCEPTS)):
        label = (draw.random((NUM, len(names))) < 0.4).astype(np.float32)
        label[draw.random(label.shape) < 0.1] = np.nan
        labels[kind] = label
    return labels


def predictions(
    seed: int, *, signal: float = 0.4, kinds: tuple[str, ...] = ("target", "concept")
) -> Predictions:
    """Probabilities that know `signal` of the truth; a kind left out has no labels."""
    draw = np.random.default_rng(seed)
    scored = {}
    for kind, names in (("target", TARGETS), ("concept", CONCEPTS)):
        label = truth()[kind]
        noise = draw.random(label.shape)
        value = (signal * np.nan_to_num(label, nan=0.5) + (1 - signal) * noise).round(2).astype(np.float32)
        scored[kind] = Scored(names, value, label)
        if kind not in kinds:
            scored[kind] = Scored((), value[:, :0], label[:, :0])
    return Predictions(IMAGES, scored)


def write_finished_run(
    folder: Path, predicted: Predictions | None, *, seconds: float = 2.0, ce: bool = False, **options: Any
) -> Path:
    """Write what comparisons read of a run; no predictions: a run of an earlier csr."""
    folder.mkdir(parents=True)
    config = {
        "options": train_options(**options).to_dict(),
        "effective_batch": 16,
        "precision": {"name": "fp32"},
        "world_size": 2,
        "versions": {"csr": "0.1.0"},
        "data": {"images": {"train": 90, "val": 10, "test": NUM}},
        "task_loss": "ce" if ce else "bce",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps({"num_images": NUM}))
    reference = {"target_thresholds": {TARGETS[0]: 0.45}, "concept_thresholds": None}
    (folder / "reference.json").write_text(json.dumps(reference))
    epochs = [
        {"stage": "concept", "seconds": seconds, "telemetry": {"memory_mib": 100.0}},
        {"stage": "concept", "seconds": seconds, "telemetry": {"memory_mib": 300.0}},
        {"stage": "task", "seconds": 0.5, "features_s": 0.25, "telemetry": None},
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(epoch)}\n" for epoch in epochs))
    if predicted is not None:
        write_predictions(folder, predicted)
    return folder


def reordered(predicted: Predictions, order: np.ndarray) -> Predictions:
    """The same predictions, images in another order."""
    kinds = {
        kind: dataclasses.replace(
            scored, probability_NL=scored.probability_NL[order], label_NL=scored.label_NL[order]
        )
        for kind, scored in predicted.kinds.items()
    }
    return Predictions(tuple(predicted.image_ids[i] for i in order), kinds)
