"""When points are written, of what, and by which rank."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked_ranks import on_ranks

from csr.data.prefetch import Clock
from csr.runtime import distributed
from csr.stages.base import StageOutput
from csr.training.checkpoints.state import TrainState
from csr.training.losses import Losses
from csr.training.observers.board_points import BoardPoints

ENGINE: Any = SimpleNamespace(
    learning_rates={"head": 0.1, "head_no_decay": 0.1, "lone_no_decay": 0.2},
    gradient_norm=2.0,
    skipped_steps=0,
    loss_scale=1.0,
    precision="fp32",
)
WINDOWS = [(4, 1.0), (4, 3.0), (1, 8.0)]  # images and loss of an epoch's optimizer steps


class Board:
    """What a monitor was given: tag -> {step: value}."""

    def __init__(self) -> None:
        self.own: dict[str, dict[int, float]] = {}
        self.shared: dict[str, dict[int, float]] = {}

    def _keep(self, where: dict[str, dict[int, float]], values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            assert step not in where.setdefault(tag, {})
            where[tag][step] = value

    def scalars(self, values: dict[str, float], *, step: int) -> None:
        self._keep(self.own, values, step)

    def gathered(self, values: dict[str, float], *, step: int) -> None:
        if distributed.is_main():
            self._keep(self.shared, values, step)

    def bar_loss(self, loss: float) -> None:
        self.bar = loss


def trained(*, every: int, epochs: int) -> Board:
    """Run an observer over epochs of `WINDOWS`; rank 1 has no image of the last one."""
    world, rank = distributed.world_size(), distributed.rank()
    board, losses, state = Board(), Losses(device=torch.device("cpu"), remembered=1), TrainState(stage="task")
    stage: Any = SimpleNamespace(name="task")
    points = BoardPoints(
        board,  # type: ignore[arg-type]
        stage,
        losses,
        Clock(),
        every=every,
        windows_per_epoch=len(WINDOWS),
        epochs=epochs,
    )
    state.epoch = 0
    for _ in range(epochs):
        state.begin_epoch()
        losses.begin_epoch(0.0)
        points.begin_epoch(state)
        for images, loss in WINDOWS:
            mine = len(range(rank, images, world))
            output = StageOutput(torch.tensor(loss * world * mine / images), {})
            losses.add(output, {"position": torch.zeros(mine), "window_share": images / 4})
            state.images += mine
            state.step_done()
            points.after_step(state, ENGINE, output)
    return board


def test_an_interval_is_weighted_by_images_and_goes_on_over_an_epochs_end():
    board = trained(every=2, epochs=2)
    # steps 3 and 4 are the one image that ends an epoch and the first four of the next
    expected = {2: (4 * 1 + 4 * 3) / 8, 4: (1 * 8 + 4 * 1) / 5, 6: (4 * 3 + 1 * 8) / 5}
    assert board.shared["task/loss"] == pytest.approx(expected)
    assert set(board.own["task/images_per_s"]) == {2, 4, 6}
    assert not [tag for tag in board.shared if "_ranks/" in tag], "one rank has no band"


def test_a_stage_ends_with_a_point():
    assert list(trained(every=4, epochs=2).shared["task/loss"]) == [4, 6]
    assert list(trained(every=100, epochs=2).shared["task/loss"]) == [6]


def test_groups_without_decay_have_no_curve_beside_their_twin():
    rates = {tag for tag in trained(every=1, epochs=1).shared if "/lr_" in tag}
    assert rates == {"task/lr_head", "task/lr_lone_no_decay"}


def test_ranks_write_their_own_and_rank_0_the_shared_and_the_bands():
    def on_rank() -> tuple[Any, Any]:
        board = trained(every=1, epochs=1)
        return board.own, board.shared

    (own0, shared0), (own1, shared1) = on_ranks(on_rank)
    assert shared0["task/loss"] == pytest.approx({1: 1.0, 2: 3.0, 3: 8.0}) and not shared1
    assert set(own0) == set(own1) == {f"task/{n}" for n in ("images_per_s", "data_wait_s", "memory_mib")}
    assert set(own0["task/images_per_s"]) == {1, 2, 3}
    assert set(own1["task/images_per_s"]) == {1, 2}, "no point of an empty rank"
    for step in (1, 2, 3):
        seen = [own["task/images_per_s"][step] for own in (own0, own1) if step in own["task/images_per_s"]]
        band = [shared0[f"task_ranks/images_per_s/{of}"][step] for of in ("min", "mean", "max")]
        assert band == pytest.approx([min(seen), sum(seen) / len(seen), max(seen)])
