"""Skipped optimizer steps in a row, and the end of a run that makes no headway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from csr.engine.engine import Engine
from csr.runtime import distributed
from csr.runtime.errors import StoppedError
from csr.runtime.monitor import Monitor
from csr.stages.base import StageOutput
from csr.training.checkpoints.state import TrainState
from csr.training.losses import Losses
from csr.training.observers.observer import Observer

SHOWN_IMAGES = 8  # of each rank


class SkippedSteps(Observer):
    """Ends the run after `limit` skipped steps in a row; all ranks skip together and count the same.

    Args:
        limit: steps in a row.
        losses: asked for their images when the run ends.
        image_ids: of the training images, by position.
        seen: steps that the engine has skipped so far.
        monitor: flushed when the run ends: the last points on the board explain it.
    """

    def __init__(
        self, limit: int, *, losses: Losses, image_ids: Sequence[str], seen: int, monitor: Monitor
    ) -> None:
        self._limit, self._losses, self._image_ids, self._seen = limit, losses, image_ids, seen
        self._monitor = monitor

    def after_step(self, state: TrainState, engine: Engine, output: StageOutput) -> None:
        """Count the step.

        Raises:
            StoppedError: the limit is reached.
        """
        skipped = engine.skipped_steps
        state.streak = state.streak + 1 if skipped > self._seen else 0
        self._seen = skipped
        if state.streak >= self._limit:
            self.stop(state, engine)

    def stop(self, state: TrainState, engine: Engine) -> NoReturn:
        """Raise StoppedError with step, ranks and images. A sync point: losses are read. Collective."""
        ids = [self._image_ids[i] for i in self._losses.suspects()[:SHOWN_IMAGES]]
        suspects = distributed.all_gather_object(ids)
        lines = [f"rank {rank}: images {', '.join(ids)}" for rank, ids in enumerate(suspects) if ids]
        self._monitor.flush()
        raise StoppedError(
            f"{state.streak} steps in a row were skipped or not finite ({state.stage} stage, "
            f"epoch {state.epoch}, step {state.global_step}); "
            f"{'; '.join(lines) or 'the losses were finite, the gradients were not'}; "
            f"loss scale {engine.loss_scale:g}: try a lower --lr, --precision bf16 or fp32, "
            "or inspect these images"
        )
