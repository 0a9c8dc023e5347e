"""Losses on this rank, on the device and unread: the sum of an epoch, and images without a finite one."""

from __future__ import annotations

import math
from collections import deque

import torch

from csr.data.batch import Batch
from csr.runtime import distributed


class Losses:
    """Losses of this rank's micro batches in a stage, summed by epoch.

    Args:
        device: of the losses.
        remembered: how many of the last micro batches can be asked for their images.
    """

    def __init__(self, *, device: torch.device, remembered: int) -> None:
        self._device = device
        self._recent: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=remembered)
        self.begin_epoch(0.0)

    def begin_epoch(self, start: torch.Tensor | float) -> torch.Tensor:
        """Begin a sum at that of the micro batches done so far; return it, a scalar that grows in place."""
        self.sum = torch.as_tensor(start, dtype=torch.float32).to(self._device, copy=True)
        return self.sum

    def add(self, loss: torch.Tensor, batch: Batch) -> None:
        """Add a micro batch's loss (scalar), which stays on the device: nothing is read."""
        value = loss.detach()
        self.sum += value.float()
        self._recent.append((value, batch["position"]))

    def mean(self, num_micro_steps: int) -> float:
        """Return the mean over the micro steps of all ranks. A sync point. Collective."""
        return float(distributed.all_reduce_sum(self.sum / num_micro_steps)) / distributed.world_size()

    def suspects(self) -> list[int]:
        """Return positions of images whose remembered micro batch had no finite loss, latest first. Syncs."""
        bad = [position for loss, position in reversed(self._recent) if not math.isfinite(float(loss))]
        return [i for position in bad for i in position.tolist()]
