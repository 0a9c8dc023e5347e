"""Validator over a data set without gradients, sharded over ranks: features, logits, rows in image order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from csr.data.dataset import EvalSampler, LabelledImages
from csr.data.prefetch import ahead, pinned, to_device
from csr.data.transforms import EvalTransform
from csr.evaluation.row_accumulator import RowAccumulator
from csr.runtime import distributed

Batch = dict[str, Any]


def stored_batches(
    dataset: LabelledImages, chunks: Iterable[np.ndarray], *, device: torch.device
) -> Iterator[Batch]:
    """Stored images of the given places in the data set, loaded ahead, on the device.

    Each batch has what `LabelledImages.load` gives and `position`, the places.
    """

    def load() -> Iterator[Batch]:
        for position_B in chunks:
            yield pinned({**dataset.load(position_B), "position": torch.from_numpy(position_B)}, device)

    for batch in ahead(load()):
        yield to_device(batch, device)


def image_batches(
    dataset: LabelledImages, *, transform: EvalTransform, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """This rank's share of the images, transformed, with labels and `position` (place in the data set)."""
    for batch in stored_batches(dataset, eval_chunks(len(dataset), batch_size), device=device):
        batch["image"] = transform(batch["image"])
        yield batch


def eval_chunks(num_images: int, batch_size: int) -> Iterator[np.ndarray]:
    """Places of this rank's batches in an evaluation."""
    for position_B, _ in _sampler(num_images, batch_size):
        yield position_B


def num_batches(num_images: int, batch_size: int) -> int:
    return len(_sampler(num_images, batch_size))


def _sampler(num_images: int, batch_size: int) -> EvalSampler:
    return EvalSampler(num_images, batch=batch_size, rank=distributed.rank(), world=distributed.world_size())


def predict_rows(
    predict: Callable[[Batch], dict[str, torch.Tensor]], batches: Iterable[Batch]
) -> dict[str, torch.Tensor]:
    """Rows (N, ...) of every image in data set order, on every rank's CPU. Collective."""
    rows = RowAccumulator()
    with distributed.errors_agreed():
        for batch in batches:
            rows.add({**predict(batch), "position": batch["position"]})
    return rows.gather()
