"""Means of losses over intervals and ranks: each image counts once, whatever the ranks and windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from forked_ranks import on_ranks

from csr.data.dataset import WindowSampler
from csr.runtime import distributed
from csr.stages.base import StageOutput
from csr.training.losses import Losses

CPU = torch.device("cpu")
IMAGES, WINDOW = 13, 6  # the third window has one image: on two ranks and more some have none
LOSS_N = np.linspace(0.1, 4.0, IMAGES) ** 2  # of each image
SPLITS = {"one": (1, 6, 1), "two": (2, 3, 1), "three": (3, 2, 1), "two, accumulated": (2, 1, 3)}


def followed(micro_batch: int, accumulation: int, *, every: int) -> Callable[[], tuple[list, float]]:
    """Return a function that gives a rank's points and its mean of an epoch."""

    def on_rank() -> tuple[list[dict[str, float]], float]:
        world = distributed.world_size()
        sampler = WindowSampler(
            IMAGES,
            micro_batch=micro_batch,
            accumulation=accumulation,
            rank=distributed.rank(),
            world=world,
            seed=3,
        )
        losses, points = Losses(device=CPU, remembered=1), []
        losses.begin_epoch(0.0)
        for i, (position_B, valid_B) in enumerate(sampler):
            window, j = divmod(i, accumulation)
            images = len(sampler.window_positions(window))
            # as a stage does: sum over this rank's images x (ranks x micro steps) / images of the window
            value = LOSS_N[position_B[valid_B]].sum() * world * accumulation / images
            output = StageOutput(
                torch.tensor(value), {"half": torch.tensor(value / 2), "rest": torch.tensor(value / 2)}
            )
            losses.add(
                output,
                {"position": torch.from_numpy(position_B[valid_B]), "window_share": images / sampler.window},
            )
            if j == accumulation - 1 and ((window + 1) % every == 0 or window == sampler.num_windows - 1):
                points.append(losses.take_means())
        return points, losses.mean()

    return on_rank


def expected(every: int) -> list[float]:
    order = WindowSampler(IMAGES, micro_batch=WINDOW, seed=3)
    windows = [order.window_positions(w) for w in range(order.num_windows)]
    groups = [windows[i : i + every] for i in range(0, len(windows), every)]
    return [float(LOSS_N[np.concatenate(group)].mean()) for group in groups]


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("split", SPLITS)
def test_points_and_the_epoch_are_means_over_the_images_of_all_ranks(split, every):
    world, micro_batch, accumulation = SPLITS[split]
    for points, mean in on_ranks(followed(micro_batch, accumulation, every=every), world):
        assert [p["loss"] for p in points] == pytest.approx(expected(every), rel=1e-6)
        assert [p["half"] for p in points] == pytest.approx([p["rest"] for p in points])
        assert mean == pytest.approx(LOSS_N.mean(), rel=1e-6)


def test_an_epoch_goes_on_where_it_was_saved():
    whole = Losses(device=CPU, remembered=1)
    whole.begin_epoch(0.0)
    batches = [(5.0, 1.0), (3.0, 1.0), (9.0, 0.25)]
    for value, share in batches:
        whole.add(output(value), {"position": torch.tensor([0]), "window_share": share})
    resumed = Losses(device=CPU, remembered=1)
    total = resumed.begin_epoch(8.0, weight=2.0)
    resumed.add(output(9.0), {"position": torch.tensor([0]), "window_share": 0.25})
    assert float(total) == pytest.approx(10.25)
    assert resumed.mean() == whole.mean() == pytest.approx(10.25 / 2.25)


def output(value: float) -> StageOutput:
    return StageOutput(torch.tensor(value), {"task_loss": torch.tensor(value)})


def test_a_single_part_is_the_loss_itself_and_not_named_twice():
    losses = Losses(device=CPU, remembered=1)
    losses.add(output(2.0), {"position": torch.tensor([0]), "window_share": 1.0})
    assert losses.take_means() == {"loss": 2.0}
