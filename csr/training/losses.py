"""Losses on this rank, on the device and unread: sums of an epoch and of an interval, and bad images.

A micro batch's loss is scaled such that the mean over the micro steps of all ranks in an optimizer step is
the loss of its window of images (`csr.training.feeder`). Windows are averaged with the number of their images
as weights: the last one of an epoch is shorter, and some ranks may have no image of it.
"""

from __future__ import annotations

import math
from collections import deque

import torch

from csr.data.batch import Batch
from csr.runtime import distributed
from csr.stages.base import StageOutput

LOSS = "loss"


class Losses:
    """Losses of this rank's micro batches in a stage, summed by epoch and by interval.

    Args:
        device: of the losses.
        remembered: how many of the last micro batches can be asked for their images.
    """

    def __init__(self, *, device: torch.device, remembered: int) -> None:
        self._device = device
        self._recent: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=remembered)
        self.begin_epoch(0.0)
        self._begin_interval()

    def begin_epoch(self, start: torch.Tensor | float, *, weight: float = 0.0) -> torch.Tensor:
        """Begin an epoch, or go on in one; the interval goes on.

        Args:
            start: sum of the micro batches done so far.
            weight: theirs, their number where all were of whole windows.

        Returns:
            The sum, a scalar that grows in place.
        """
        self.sum = torch.as_tensor(start, dtype=torch.float32).to(self._device, copy=True)
        self._weight = weight
        return self.sum

    def _begin_interval(self) -> None:
        self._interval: dict[str, torch.Tensor] = {}
        self._interval_weight = 0.0

    def add(self, output: StageOutput, batch: Batch) -> None:
        """Add a micro batch's loss and its parts (scalars), which stay on the device: nothing is read."""
        value, weight = output.loss.detach(), batch["window_share"]
        self.sum += value.float() * weight
        self._weight += weight
        for name, part in {**output.report, LOSS: value}.items():
            before = self._interval.get(name, 0.0)
            self._interval[name] = before + part.detach().float() * weight
        self._interval_weight += weight
        self._recent.append((value, batch["position"]))

    def mean(self) -> float:
        """Return the epoch's mean over the images of all ranks. A sync point. Collective."""
        total = float(distributed.all_reduce_sum(self.sum))
        return total / (distributed.world_size() * self._weight)

    def take_means(self) -> dict[str, float]:
        """Return the means since the last call over the images of all ranks.

        A sync point. Collective. At least one micro batch was added.

        Returns:
            `loss`, and its parts where it has several.
        """
        names = sorted(self._interval)
        total_P = distributed.all_reduce_sum(torch.stack([self._interval[name] for name in names]))
        weight = distributed.world_size() * self._interval_weight
        means = {name: total / weight for name, total in zip(names, total_P.tolist(), strict=True)}
        self._begin_interval()
        return means if len(means) > 2 else {LOSS: means[LOSS]}  # one part is the loss itself

    def suspects(self) -> list[int]:
        """Return positions of images whose remembered micro batch had no finite loss, latest first. Syncs."""
        bad = [position for loss, position in reversed(self._recent) if not math.isfinite(float(loss))]
        return [i for position in bad for i in position.tolist()]
