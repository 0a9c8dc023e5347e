"""Passes over a data set without gradients, sharded over ranks: features, logits, rows in image order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from csr import distributed
from csr.batches import ahead, to_device
from csr.data.dataset import EvalSampler, LabelledImages
from csr.data.transforms import EvalTransform
from csr.features import FeatureTable, build_feature_table
from csr.metrics import RowAccumulator

Batch = dict[str, Any]


def image_batches(
    dataset: LabelledImages, *, transform: EvalTransform, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """This rank's share of the images, transformed, with labels and `position` (place in the data set)."""
    sampler = EvalSampler(
        len(dataset), batch=batch_size, rank=distributed.rank(), world=distributed.world_size()
    )

    def load() -> Iterator[Batch]:
        for positions, valid in sampler:
            yield {**dataset.load(positions, valid), "position": torch.from_numpy(positions)}

    for batch in ahead(load()):
        batch = to_device(batch, device)
        batch["image"] = transform(batch["image"])
        yield batch


def num_batches(num_images: int, batch_size: int) -> int:
    sampler = EvalSampler(
        num_images, batch=batch_size, rank=distributed.rank(), world=distributed.world_size()
    )
    return len(sampler)


def compute_features(
    inputs: Callable[[Batch], dict[str, torch.Tensor]], batches: Iterable[Batch], *, num_images: int
) -> FeatureTable:
    """Run a stage's frozen layers over all images; every rank gets all rows. Collective."""
    kept: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        rows = {name: value.cpu() for name, value in inputs(batch).items()}
        rows["image"] = batch["position"].cpu()[rows.pop("row")]
        for name, value in rows.items():
            kept.setdefault(name, []).append(value.numpy())
    mine = {name: np.concatenate(parts) for name, parts in kept.items()}
    return build_feature_table(distributed.all_gather_object(mine), num_images)


def predict_rows(
    predict: Callable[[Batch], dict[str, torch.Tensor]], batches: Iterable[Batch]
) -> dict[str, torch.Tensor]:
    """Rows (N, ...) of every image in data set order, on every rank's CPU. Collective."""
    rows = RowAccumulator()
    for batch in batches:
        rows.add({**predict(batch), "position": batch["position"]})
    return rows.gather()
