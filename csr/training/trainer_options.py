"""Options of the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from csr.training.features.cache import FeatureOptions


@dataclass(frozen=True)
class TrainerOptions:
    """What the loop needs to know of the options."""

    batch_size: int
    accumulation: int
    epochs: dict[str, int]
    lr_factor: Callable[[int, int], float]  # (step, total steps) -> factor
    precision: str
    seed: int
    caching: FeatureOptions
    log_every: int
    max_skipped: int
    save_every: int = 0  # optimizer steps between checkpoints within an epoch; 0: at its end only
    profile: int = 0  # optimizer steps of each stage in rank 0's trace
    max_windows: int | None = None  # a dry run's limit on optimizer steps per epoch
