"""The observer of training steps, and the small ones: clock, profiler, stop request, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

from csr.engine.engine import Engine
from csr.runtime.signals import StopRequest
from csr.stages.base import StageOutput
from csr.training.checkpoints.saver import Saver
from csr.training.checkpoints.state import TrainState


class Observer:
    """Follows the optimizer steps of one stage; holds its own counters, decides itself whether it is due."""

    def begin_epoch(self, state: TrainState) -> None:
        """Prepare for an epoch's steps, or for what is left of them in a resumed run."""

    def after_step(self, state: TrainState, engine: Engine, output: StageOutput) -> None:
        """Follow a step that is done; may write to the state, save, or raise to end the run."""


class EpochClock(Observer):
    """Keeps the seconds of an epoch's training in the state, those before a resume included."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def begin_epoch(self, state: TrainState) -> None:
        self._began = time.perf_counter() - state.seconds

    def after_step(self, state: TrainState, engine: Engine, output: StageOutput) -> None:
        self.update(state)

    def update(self, state: TrainState) -> None:
        """Write the seconds until now into the state."""
        state.seconds = time.perf_counter() - self._began


class ProfiledSteps(Observer):
    """Moves the profiler of a stage.

    Args:
        step: of `csr.training.logs.profiler.profiled`.
    """

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step

    def after_step(self, state: TrainState, engine: Engine, output: StageOutput) -> None:
        self._step()


class StopWhenAsked(Observer):
    """Saves and leaves when the ranks agree that the run was asked to stop.

    Args:
        request: of the run.
        leave: saves and raises.
    """

    def __init__(self, request: StopRequest, leave: Callable[[Engine], NoReturn]) -> None:
        self._request, self._leave = request, leave

    def begin_epoch(self, state: TrainState) -> None:
        self._request.restart()

    def after_step(self, state: TrainState, engine: Engine, output: StageOutput) -> None:
        if self._request.due():  # now and then a reduction between hosts; it waits for no device
            self._leave(engine)


class SavedEvery(Observer):
    """Writes a training checkpoint every so many steps; an epoch's last step is saved with its validation.

    Args:
        saver: writes it.
        every: optimizer steps (0: never).
        windows_per_epoch: optimizer steps of an epoch.
    """

    def __init__(self, saver: Saver, *, every: int, windows_per_epoch: int) -> None:
        self._saver, self._every, self._windows = saver, every, windows_per_epoch
        self._seconds = 0.0

    def after_step(self, state: TrainState, engine: Engine, output: StageOutput) -> None:
        if not self._every or state.global_step % self._every or state.windows == self._windows:
            return
        before = self._saver.seconds
        self._saver.checkpoint(engine, state)  # a sync point: weights and the loss sum are read
        self._seconds += self._saver.seconds - before

    def take_seconds(self) -> float:
        """Return the seconds spent on saving since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
