"""What the loop trains and validates on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csr.data.dataset import LabelledImages
from csr.data.labels.positive import is_positive
from csr.data.transforms import EvalTransform, TrainTransform


@dataclass(frozen=True)
class Splits:
    """Training and validation images with their transforms."""

    train: LabelledImages
    val: LabelledImages
    train_transform: TrainTransform
    eval_transform: EvalTransform
    names: dict[str, tuple[str, ...]]  # "concept" and "target" -> label names
    map_size: tuple[int, int]


def labels_of(dataset: LabelledImages) -> dict[str, np.ndarray]:
    """Labels of a data set's own images, in its order, and how many (image, concept) pairs have boxes."""
    labels = {
        "concept": dataset.table.concept_NK[dataset.indices],
        "target": dataset.table.target_NT[dataset.indices],
    }
    if dataset.boxes is not None:
        row_R, class_R, _ = dataset.boxes.for_batch(dataset.indices)
        used_R = is_positive(labels["concept"][row_R, class_R])  # as the stage's loss masks them
        pairs = np.unique(np.stack([row_R[used_R], class_R[used_R]], axis=1), axis=0)
        labels["num_boxes"] = np.bincount(pairs[:, 0], minlength=len(dataset))
    return labels
