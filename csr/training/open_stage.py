"""One stage opened for training: its engine, what its frozen layers compute, and what follows its steps."""

from __future__ import annotations

from dataclasses import dataclass

from csr.engine.engine import Engine
from csr.stages.base import Stage
from csr.training.checkpoints.state import TrainState
from csr.training.features.table import FeatureViews
from csr.training.logs.throughput import StageTelemetry
from csr.training.losses import Losses
from csr.training.observers.observer import EpochClock, Observer, SavedEvery
from csr.training.observers.skipped_steps import SkippedSteps


@dataclass(frozen=True)
class StageFeatures:
    """What the frozen layers of a stage compute.

    Attributes:
        train: on the training images; None for a stage without frozen layers before what it trains.
        val: on the validation images; None as well for a stage that is not validated.
        seconds: that computing or reading them took.
        is_cached: whether steps read them; otherwise steps read images.
    """

    train: FeatureViews | None = None
    val: FeatureViews | None = None
    seconds: float = 0.0
    is_cached: bool = False

    @property
    def of_steps(self) -> FeatureViews | None:
        """Features that steps read; None where they read images."""
        return self.train if self.is_cached else None


@dataclass(frozen=True)
class OpenStage:
    """A stage from its first step to its last.

    Attributes:
        stage: on the device.
        engine: around it.
        features: of its frozen layers.
        telemetry: account of its time on this rank.
        losses: of this rank's micro batches.
        clock, skipped, saves: observers that are asked between epochs too.
        observers: all, in the order in which they follow a step; the last two may end the run or save.
    """

    stage: Stage
    engine: Engine
    features: StageFeatures
    telemetry: StageTelemetry
    losses: Losses
    clock: EpochClock
    skipped: SkippedSteps
    saves: SavedEvery
    observers: tuple[Observer, ...]

    def begin_epoch(self, state: TrainState, *, weight: float) -> None:
        """Prepare losses and observers for an epoch's steps, or for what is left of them.

        Args:
            state: of training.
            weight: of the micro steps that are done (`Feeder.weight_of`).
        """
        state.loss_sum = self.losses.begin_epoch(state.loss_sum, weight=weight)
        for observer in self.observers:
            observer.begin_epoch(state)
