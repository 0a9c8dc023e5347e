"""Points of training steps on every rank's TensorBoard; there alone a step waits for the device."""

from __future__ import annotations

import time

from csr.data.prefetch import Clock
from csr.engine.engine import Engine
from csr.runtime.collective_time import IN_COLLECTIVES
from csr.runtime.monitor import Monitor
from csr.stages.base import Stage, StageOutput
from csr.training.checkpoints.state import TrainState
from csr.training.logs.epoch_report import step_values
from csr.training.observers.observer import Observer


class BoardPoints(Observer):
    """Writes the numbers of a step every so often, and at the end of an epoch.

    Args:
        monitor: writes them.
        stage: under training.
        clock: seconds waited for data.
        every: optimizer steps between points.
        windows_per_epoch: optimizer steps of an epoch.
    """

    def __init__(
        self, monitor: Monitor, stage: Stage, clock: Clock, *, every: int, windows_per_epoch: int
    ) -> None:
        self._monitor, self._stage, self._clock = monitor, stage, clock
        self._every, self._windows = every, windows_per_epoch
        self._images, self._since = 0, time.perf_counter()

    def begin_epoch(self, state: TrainState) -> None:
        self._images, self._since = state.images, time.perf_counter()
        self._clock.take("data")
        IN_COLLECTIVES.take()

    def after_step(self, state: TrainState, engine: Engine, output: StageOutput) -> None:
        if state.global_step % self._every and state.windows != self._windows:
            return
        name, waited, now = self._stage.name, self._clock.take("data"), time.perf_counter()
        state.waited += waited
        state.in_collectives += IN_COLLECTIVES.take()
        values = step_values(engine, self._stage, output)  # a sync point: the loss is read
        values[f"{name}/images_per_s"] = (state.images - self._images) / (now - self._since)
        values[f"{name}/data_wait_s"] = waited
        self._monitor.scalars(values, step=state.global_step)
        self._monitor.bar_loss(values[f"{name}/loss"])
        self._images, self._since = state.images, now
