"""Points of training steps on the board; there alone a step waits for the device.

Losses are means over the images of all ranks since the last point (in a resumed run, since it began); the
optimizer's numbers are the same on all ranks: rank 0 writes both. A rank's own board has what differs between
ranks. An interval goes on over the end of an epoch, so that its short last window counts as what it is.
"""

from __future__ import annotations

import time

from csr.data.prefetch import Clock
from csr.engine.engine import Engine
from csr.engine.memory import memory_mib
from csr.runtime import distributed
from csr.runtime.collective_time import IN_COLLECTIVES
from csr.runtime.monitor import Monitor
from csr.stages.base import Stage, StageOutput
from csr.training.checkpoints.state import TrainState
from csr.training.logs.epoch_report import bands, optimizer_values
from csr.training.losses import LOSS, Losses
from csr.training.observers.observer import Observer


class BoardPoints(Observer):
    """Writes the numbers of the last steps every so often, and at the end of the stage.

    Args:
        monitor: writes them.
        stage: under training.
        losses: of this rank.
        clock: seconds waited for data.
        every: optimizer steps between points.
        windows_per_epoch: optimizer steps of an epoch.
        epochs: of the stage.
    """

    def __init__(
        self,
        monitor: Monitor,
        stage: Stage,
        losses: Losses,
        clock: Clock,
        *,
        every: int,
        windows_per_epoch: int,
        epochs: int,
    ) -> None:
        self._monitor, self._stage, self._losses, self._clock = monitor, stage, losses, clock
        self._every, self._windows, self._epochs = every, windows_per_epoch, epochs
        self._images, self._seconds, self._waited = 0, 0.0, 0.0  # of the interval
        self._seen, self._at = 0, 0.0  # images of the epoch and time when they were last added up

    def begin_epoch(self, state: TrainState) -> None:
        self._seen, self._at = state.images, time.perf_counter()
        self._clock.take("data")
        IN_COLLECTIVES.take()

    def after_step(self, state: TrainState, engine: Engine, output: StageOutput) -> None:
        """Write a point where one is due. Collective there."""
        ends_epoch = state.windows == self._windows
        is_due = state.global_step % self._every == 0 or (ends_epoch and state.epoch == self._epochs)
        if is_due:
            self._write(state, engine)
        elif ends_epoch:  # time between epochs is no part of the interval
            self._add_up(state)

    def _write(self, state: TrainState, engine: Engine) -> None:
        name, step = self._stage.name, state.global_step
        losses = self._losses.take_means()  # a sync point: the losses are read
        self._add_up(state)
        own = self._take_of_this_rank()
        self._monitor.scalars({f"{name}/{key}": value for key, value in own.items()}, step=step)
        shared = {f"{name}/{key}": value for key, value in losses.items()}
        shared |= optimizer_values(name, engine) | bands(name, distributed.all_gather_object(own))
        self._monitor.gathered(shared, step=step)
        self._monitor.bar_loss(losses[LOSS])

    def _add_up(self, state: TrainState) -> None:
        """Add what images and seconds are new to the interval's, and waits to the epoch's too."""
        waited, now = self._clock.take("data"), time.perf_counter()
        state.waited += waited
        state.in_collectives += IN_COLLECTIVES.take()
        self._waited += waited
        self._seconds += now - self._at
        self._images += state.images - self._seen
        self._seen, self._at = state.images, now

    def _take_of_this_rank(self) -> dict[str, float]:
        """Return what differs between ranks; {} of one that had no image in the interval."""
        images, seconds, waited = self._images, self._seconds, self._waited
        self._images, self._seconds, self._waited = 0, 0.0, 0.0
        if not images:
            return {}
        return {"images_per_s": images / seconds, "data_wait_s": waited, "memory_mib": memory_mib()}
