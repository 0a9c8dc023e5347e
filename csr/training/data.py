"""Training and validation images of a run, and their labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from csr.config.options import TrainConfig
from csr.data.dataset import LabelledImages
from csr.data.labels.positive import is_positive
from csr.data.transforms import EvalTransform, TrainTransform
from csr.runtime import distributed
from csr.training.schedule import SideSchedule


@dataclass(frozen=True)
class Splits:
    """Training and validation images with their transforms.

    Attributes:
        train, val: images with labels.
        train_transform, eval_transform: stored pixels -> input of the network.
        names: `concept` and `target` -> names of the labels.
        map_size: height and width of the feature map, for masks of boxes.
        sides: of the images over stage 1; None: full size throughout.
    """

    train: LabelledImages
    val: LabelledImages
    train_transform: TrainTransform
    eval_transform: EvalTransform
    names: dict[str, tuple[str, ...]]
    map_size: tuple[int, int]
    sides: SideSchedule | None = None


def labels_of(dataset: LabelledImages) -> dict[str, np.ndarray]:
    """Return the labels of a data set's own images, in its order.

    Returns:
        `concept` (N,K) and `target` (N,T) float32, NaN where not annotated; with boxes also `num_boxes` (N,)
        int64, how many present concepts of each image have boxes.
    """
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


def one_step_of(data: Splits, config: TrainConfig) -> Splits:
    """Return as many training and validation images as one optimizer step takes, for a dry run."""
    step = config.optim.batch_size * config.optim.accumulation * distributed.world_size()
    train, val = data.train, data.val
    return dataclasses.replace(
        data,
        train=LabelledImages(train.store, train.table, boxes=train.boxes, indices=train.indices[:step]),
        val=LabelledImages(val.store, val.table, indices=val.indices[:step]),
    )
