"""Options of the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from csr.config.options import TrainConfig
from csr.training.features.cache import FeatureOptions
from csr.training.schedule import lr_factor


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


def trainer_options(config: TrainConfig, precision: str) -> TrainerOptions:
    """Return the options of the loop."""
    optim = config.optim
    dry = config.run.dry_run
    return TrainerOptions(
        batch_size=optim.batch_size,
        accumulation=optim.accumulation,
        epochs=dict.fromkeys(config.epochs, 1) if dry else config.epochs,
        lr_factor=lambda step, total: lr_factor(step, total, warmup=optim.warmup, schedule=optim.schedule),
        precision=precision,
        seed=config.engine.seed,
        caching=feature_options(config, precision),
        log_every=config.run.log_every,
        save_every=config.run.save_every,
        max_skipped=config.engine.max_skipped,
        max_windows=1 if dry else None,
        profile=config.run.profile,
    )


def feature_options(config: TrainConfig, precision: str) -> FeatureOptions:
    """Return how the outputs of frozen layers are cached."""
    folder = config.engine.cache_dir or Path(config.run.output_dir) / ".cache" / "features"
    keeps_files = config.engine.cache in ("auto", "disk") and not config.run.dry_run
    mode = config.engine.cache if keeps_files or config.engine.cache == "off" else "memory"
    return FeatureOptions(
        mode=mode,
        folder=Path(folder),
        dtype=config.engine.cache_dtype,
        views=config.engine.cache_views,
        batch_size=2 * config.optim.batch_size,
        precision=precision,
        seed=config.engine.seed,
    )
