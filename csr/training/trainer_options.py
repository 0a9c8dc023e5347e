"""Options of the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from csr.training.features.cache import FeatureOptions


@dataclass(frozen=True)
class TrainerOptions:
    """Options of the loop.

    Attributes:
        batch_size: images per rank and micro step.
        accumulation: micro steps per optimizer step.
        epochs: of each stage.
        lr_factor: (step, total steps) -> factor of the learning rates.
        precision: fp32, bf16 or fp16.
        seed: of order, augmentation and torch's generators.
        caching: of what frozen layers compute.
        log_every: optimizer steps between points on the board.
        max_skipped: skipped optimizer steps in a row that end the run.
        save_every: optimizer steps between checkpoints within an epoch; 0: at its end only.
        profile: optimizer steps of each stage in rank 0's trace.
        max_windows: a dry run's limit on optimizer steps per epoch.
    """

    batch_size: int
    accumulation: int
    epochs: dict[str, int]
    lr_factor: Callable[[int, int], float]
    precision: str
    seed: int
    caching: FeatureOptions
    log_every: int
    max_skipped: int
    save_every: int = 0
    profile: int = 0
    max_windows: int | None = None
