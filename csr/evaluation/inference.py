"""Passes over a data set without gradients, sharded over ranks: batches in, rows of predictions out.

Letters: B batch, N images. The place of an image is its number in the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import EvalSampler, LabelledImages
from csr.data.prefetch import ahead, pinned, to_device
from csr.data.transforms import EvalTransform
from csr.evaluation.row_accumulator import RowAccumulator
from csr.runtime import distributed


def stored_batches(
    dataset: LabelledImages, chunks: Iterable[np.ndarray], *, device: torch.device
) -> Iterator[Batch]:
    """Yield stored images at the given places of the data set, loaded ahead, on the device.

    Args:
        dataset: the images.
        chunks: places of each batch, int64 (B,).
        device: of the batches.

    Yields:
        Batches of `LabelledImages.load`, and in each `position` (B,), the places.
    """

    def load() -> Iterator[Batch]:
        for position_B in chunks:
            yield pinned({**dataset.load(position_B), "position": torch.from_numpy(position_B)}, device)

    for batch in ahead(load(), device=device):
        yield to_device(batch, device)


def image_batches(
    dataset: LabelledImages, *, transform: EvalTransform, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """Yield this rank's share of the images, transformed, with labels and `position`.

    Args:
        dataset: the images.
        transform: makes uint8 (B, C, S, S) the network's float (B, 3, H, W).
        batch_size: B.
        device: of the batches.

    Yields:
        Batches as `stored_batches` yields them, with `image` transformed.
    """
    for batch in stored_batches(dataset, eval_chunks(len(dataset), batch_size), device=device):
        batch["image"] = transform(batch["image"])
        yield batch


def eval_chunks(num_images: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the places of each of this rank's batches, int64 (B,); no image is repeated."""
    for position_B, _ in _sampler(num_images, batch_size):
        yield position_B


def num_batches(num_images: int, batch_size: int) -> int:
    """Return the number of this rank's batches."""
    return len(_sampler(num_images, batch_size))


def _sampler(num_images: int, batch_size: int) -> EvalSampler:
    return EvalSampler(num_images, batch=batch_size, rank=distributed.rank(), world=distributed.world_size())


def predict_rows(
    predict: Callable[[Batch], dict[str, torch.Tensor]], batches: Iterable[Batch]
) -> dict[str, torch.Tensor]:
    """Return the rows of all images in data set order, on every rank's CPU. Collective.

    Args:
        predict: batch -> name -> rows (B, ...).
        batches: this rank's, each with `position` (B,).

    Returns:
        name -> rows (N, ...), and `position` (N,).
    """
    rows = RowAccumulator()
    with distributed.errors_agreed():
        for batch in batches:
            rows.add({**predict(batch), "position": batch["position"]})
    return rows.gather()
