"""Marks painted over and pasted: regions and pixels against loops, rows against the network run by hand."""

from __future__ import annotations

import pytest
import torch
from tiny_model import K, M, tiny_model

from csr.explain.refine.fit import Scores
from csr.explain.refine.occlusion import (
    Marks,
    firing_from,
    paint_over,
    painted_and_pasted,
    regions_of,
)

N, SIDE = 7, 64


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def dropped() -> torch.Tensor:
    dropped_KM = torch.zeros(K, M, dtype=torch.bool)
    dropped_KM[0, 1] = dropped_KM[2, 0] = True
    return dropped_KM


def batches(images: torch.Tensor):
    return lambda title: [{"image": images[:3]}, {"image": images[3:]}]


def test_a_prototype_fires_from_half_way_between_its_usual_and_its_highest_score():
    score_NR = torch.tensor([[0.0, 1.0], [0.2, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(firing_from(score_NR), torch.tensor([0.6, 1.0]))


def test_painted_regions_have_the_mean_of_the_rest_of_their_image(images):
    region_BHW = torch.zeros(N, 4, 4, dtype=torch.bool)
    region_BHW[1, 0, :2] = region_BHW[2] = True
    painted = paint_over(images, region_BHW)
    assert torch.equal(painted[0], images[0])
    for c in range(3):
        rest = torch.cat([images[1, c, 16:].flatten(), images[1, c, :16, 32:].flatten()])
        torch.testing.assert_close(painted[1, c, :16, :32], rest.mean().expand(16, 32))
    assert torch.equal(painted[1, :, 16:], images[1, :, 16:])
    assert (painted[2] == 0).all(), "an image that is painted over as a whole has no rest"


@torch.no_grad()
def test_regions_hold_the_peak_of_each_dropped_prototype_that_fires_and_nothing_else(images, dropped):
    model = tiny_model()
    maps_BRHW = model(images).similarity_maps[:, dropped]
    firing_R = maps_BRHW.amax(dim=(2, 3)).median(dim=0).values
    found = regions_of(model, batches(images)("regions"), dropped, firing_R=firing_R)
    for n in range(N):
        fires = [r for r in range(2) if maps_BRHW[n, r].max() >= firing_R[r]]
        assert bool(found[n].any()) == bool(fires)
        for r in fires:
            assert found[n].flatten()[maps_BRHW[n, r].argmax()]


@torch.no_grad()
def test_half_of_the_rows_are_painted_and_half_have_the_mark_of_some_image_added(images, dropped):
    model = tiny_model()
    scores = Scores(model(images).similarity_scores.flatten(1), torch.arange(N).float()[:, None])
    chosen = scores.score_NF[:, dropped.flatten()]
    both, marks = painted_and_pasted(
        model, scores, batches(images), dropped_KM=dropped, firing_R=firing_from(chosen), seed=0
    )
    fires_N = (chosen >= firing_from(chosen)).any(dim=1)
    assert (
        isinstance(marks, Marks) and len(marks.change_JF) == len(marks.region_JHW) == int(fires_N.sum()) > 0
    )
    painted, pasted = both.score_NF[:N], both.score_NF[N:]
    assert torch.equal(both.target_NT, torch.cat([scores.target_NT] * 2))
    region_NHW = regions_of(model, batches(images)(""), dropped, firing_R=firing_from(chosen))
    own = paint_over(images[fires_N], region_NHW[fires_N])
    torch.testing.assert_close(painted[fires_N], model(own).similarity_scores.flatten(1))
    torch.testing.assert_close(marks.change_JF, scores.score_NF[fires_N] - painted[fires_N])
    for row in pasted - painted:  # every one is the change of one of the marks
        assert (marks.change_JF - row).abs().amax(dim=1).min() < 1e-5
    for n in torch.nonzero(~fires_N).flatten().tolist():  # and a painted region that of one of them
        candidates = paint_over(images[n].expand(len(marks.region_JHW), -1, -1, -1), marks.region_JHW)
        by_hand = model(candidates).similarity_scores.flatten(1)
        assert (by_hand - painted[n]).abs().amax(dim=1).min() < 1e-4


def test_the_same_seed_draws_the_same(images, dropped):
    model = tiny_model()
    with torch.no_grad():
        scores = Scores(model(images).similarity_scores.flatten(1), torch.zeros(N, 1))
    firing_R = firing_from(scores.score_NF[:, dropped.flatten()])
    one, two = (
        painted_and_pasted(model, scores, batches(images), dropped_KM=dropped, firing_R=firing_R, seed=3)[0]
        for _ in range(2)
    )
    assert torch.equal(one.score_NF, two.score_NF)
