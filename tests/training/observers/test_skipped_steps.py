"""Skipped steps are counted in a row, and the images without a finite loss are named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from csr.data.batch import Batch
from csr.runtime.errors import StoppedError
from csr.stages.base import StageOutput
from csr.training.checkpoints.state import TrainState
from csr.training.losses import Losses
from csr.training.observers.skipped_steps import SkippedSteps

CPU = torch.device("cpu")


class Flushes:
    """A monitor that counts how often its board is flushed."""

    def __init__(self) -> None:
        self.count = 0

    def flush(self) -> None:
        self.count += 1


def steps(
    limit: int, losses: Losses, *, streak: int = 0, monitor: Flushes | None = None
) -> tuple[SkippedSteps, TrainState]:
    ids = [f"image{i}" for i in range(9)]
    observer = SkippedSteps(limit, losses=losses, image_ids=ids, seen=0, monitor=monitor or Flushes())
    return observer, TrainState(stage="concept", streak=streak)


def engine(skipped: int) -> SimpleNamespace:
    return SimpleNamespace(skipped_steps=skipped, loss_scale=4.0)


def batch(*position: int) -> Batch:
    return {"position": torch.tensor(position), "window_share": 1.0}


def output(loss: float) -> StageOutput:
    return StageOutput(torch.tensor(loss), {})


def test_it_ends_the_run_at_the_limit_and_an_applied_step_starts_the_count_again():
    monitor = Flushes()
    observer, state = steps(3, Losses(device=CPU, remembered=3), monitor=monitor)
    for seen, streak in ((1, 1), (2, 2), (2, 0), (3, 1), (4, 2)):
        observer.after_step(state, engine(seen), None)
        assert state.streak == streak
    assert monitor.count == 0
    with pytest.raises(StoppedError, match="^3 steps in a row .*concept stage.*gradients were not.*scale 4"):
        observer.after_step(state, engine(5), None)
    assert monitor.count == 1, "the last points on the board explain the end"


def test_a_resumed_run_counts_on():
    observer, state = steps(3, Losses(device=CPU, remembered=3), streak=2)
    with pytest.raises(StoppedError):
        observer.after_step(state, engine(1), None)


def test_only_images_whose_loss_was_not_finite_are_named_the_latest_first():
    losses = Losses(device=CPU, remembered=2)
    for loss, position in ((float("nan"), [0]), (1.0, [1, 2]), (float("inf"), [3, 4])):
        losses.add(output(loss), batch(*position))
    assert losses.suspects() == [3, 4]  # the first has left the memory of two
    observer, state = steps(1, losses)
    with pytest.raises(StoppedError, match="rank 0: images image3, image4;"):
        observer.after_step(state, engine(1), None)
