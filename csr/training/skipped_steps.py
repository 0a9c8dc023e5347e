"""Counts optimizer steps that were skipped in a row, and remembers whose images gave no finite loss."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch


class SkippedSteps:
    """Trips after `limit` skipped steps in a row. The count is the same on all ranks: all skip together.

    Args:
        limit: steps in a row.
        streak: of the run that this one goes on with.
    """

    def __init__(self, limit: int, *, streak: int = 0) -> None:
        self.limit = limit
        self.streak = streak
        self._recent: deque[tuple[torch.Tensor, np.ndarray]] = deque(maxlen=limit)

    def add(self, loss: torch.Tensor, positions_B: np.ndarray) -> None:
        """Remember a micro batch: its loss stays on the device, unread."""
        self._recent.append((loss, positions_B))

    def step_done(self, *, skipped: bool) -> bool:
        """Whether the limit is reached."""
        self.streak = self.streak + 1 if skipped else 0
        return self.streak >= self.limit

    def suspects(self) -> list[int]:
        """Images of this rank's remembered micro batches whose loss was not finite, latest first."""
        bad = [index.tolist() for loss, index in reversed(self._recent) if not bool(torch.isfinite(loss))]
        return [i for indices in bad for i in indices]
