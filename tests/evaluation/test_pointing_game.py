"""Pointing game and overlap against slow loops over pixels and cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch.nn import functional as F

from csr.evaluation.bootstrap import Bootstrap, drawn_images
from csr.evaluation.pointing_game import (
    GRID,
    SCORES,
    overlap,
    pair_masks,
    pointing_rows,
    reachable,
    score_pointing,
    union_areas,
)

B, K, M, H, W = 5, 3, 4, 6, 7


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Boxes of several sizes, some twice on one pair, on concepts that are present, absent and masked."""
    generator = torch.Generator().manual_seed(2)
    low = torch.rand(24, 2, generator=generator) * 0.7
    size = 0.02 + torch.rand(24, 2, generator=generator) * 0.28
    concept = torch.tensor([[1.0, 1, 0], [1, float("nan"), 1], [1, 1, 1], [0, 0, 0], [0.5, 0.4, 1]])
    return {
        "concept": concept,
        "box": torch.cat([low, low + size], dim=1),
        "box_row": torch.randint(0, B, (24,), generator=generator).sort().values,
        "box_class": torch.randint(0, K, (24,), generator=generator),
    }


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(B, K, H, W, generator=generator),
        torch.rand(B, K, M, H, W, generator=generator) * 2 - 1,
    )


def slow_pair(map_hw: torch.Tensor, boxes: np.ndarray) -> tuple[bool, float]:
    """Return whether the highest cell's centre is in a box, and the overlap, pixel by pixel."""
    best, point = -np.inf, (0.0, 0.0)
    for y in range(H):
        for x in range(W):
            if map_hw[y, x] > best:
                best, point = float(map_hw[y, x]), ((x + 0.5) / W, (y + 0.5) / H)
    hit = any(x0 <= point[0] <= x1 and y0 <= point[1] <= y1 for x0, y0, x1, y1 in boxes)
    fine = F.interpolate(map_hw[None, None], (GRID, GRID), mode="bilinear", align_corners=False)[0, 0].numpy()
    centre = (np.arange(GRID) + 0.5) / GRID
    inside = np.zeros((GRID, GRID), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        inside |= ((centre >= y0) & (centre <= y1))[:, None] & ((centre >= x0) & (centre <= x1))[None]
    region = fine >= (fine.max() + fine.min()) / 2
    return hit, np.sum(region & inside) / np.sum(region | inside)


def test_every_pair_equals_a_slow_loop(batch, maps):
    cam, sim = maps
    rows = pointing_rows(cam, sim, batch).numpy()
    pairs = 0
    for b in range(B):
        for k in range(K):
            of_pair = (batch["box_row"] == b) & (batch["box_class"] == k)
            if not of_pair.any() or not batch["concept"][b, k] >= 0.5:
                assert np.isnan(rows[b, k]).all()
                continue
            pairs += 1
            boxes = batch["box"][of_pair].numpy()
            value = dict(zip(SCORES, rows[b, k], strict=True))
            best = max(range(M), key=lambda m: float(sim[b, k, m].max()))
            for name, map_hw in (("cam", cam[b, k]), ("similarity", sim[b, k, best])):
                hit, iou = slow_pair(map_hw, boxes)
                assert value[f"{name}_hit"] == hit and value[f"{name}_iou"] == pytest.approx(iou, abs=1e-6)
            assert value["centre_hit"] == any(x0 <= 0.5 <= x1 and y0 <= 0.5 <= y1 for x0, y0, x1, y1 in boxes)
            cells = [((x + 0.5) / W, (y + 0.5) / H) for x in range(W) for y in range(H)]
            can = any(x0 <= x <= x1 and y0 <= y <= y1 for x, y in cells for x0, y0, x1, y1 in boxes)
            assert value["reachable"] == can
    assert pairs >= 5


def test_the_area_of_overlapping_boxes_counts_once():
    box = np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75], [0.1, 0.1, 0.2, 0.2], [0, 0, 1, 0.1]])
    np.testing.assert_allclose(union_areas(box, np.array([0, 0, 0, 1])), [0.25 + 0.25 - 0.0625, 0.1])


def test_a_map_that_is_the_box_overlaps_it_whole_and_a_flat_one_by_the_boxs_area():
    box, pair = torch.tensor([[0.25, 0.25, 0.75, 0.75]]), torch.tensor([0])
    mask = pair_masks(box, pair)
    exact = mask.float()
    assert overlap(exact, mask).item() == 1
    assert overlap(torch.ones(1, 4, 4), mask).item() == pytest.approx(0.25)


def test_a_box_between_the_cells_centres_cannot_be_hit():
    box = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.2, 0.2, 0.3, 0.3]])
    np.testing.assert_array_equal(reachable(box, torch.tensor([0, 1]), height=2, width=2), [0, 1])


def test_means_and_intervals_equal_a_loop_over_the_same_resamples():
    draw = np.random.default_rng(1)
    value = draw.random((30, 3, len(SCORES))).astype(np.float32)
    value[draw.random((30, 3)) < 0.5] = np.nan
    value[:, 2] = np.nan
    scores = score_pointing(value, names=("a", "b", "none"), bootstrap=Bootstrap(40, 3))
    assert list(scores["labels"]) == ["a", "b"] and scores["n"] == int((~np.isnan(value[:, :, 0])).sum())
    np.testing.assert_allclose(
        scores["labels"]["b"]["chance"]["value"], np.nanmean(value[:, 1, 4]), rtol=1e-6
    )
    np.testing.assert_allclose(scores["micro"]["cam_hit"]["value"], np.nanmean(value[:, :, 0]), rtol=1e-6)
    means = [np.nanmean(value[:, k, 0]) for k in (0, 1)]
    np.testing.assert_allclose(scores["macro"]["cam_hit"]["value"], np.mean(means), rtol=1e-6)
    slow = [np.nanmean(value[drawn_images(30, r, seed=3)][:, :, 0]) for r in range(40)]
    low, high = np.quantile(slow, [0.025, 0.975])
    np.testing.assert_allclose(
        [scores["micro"]["cam_hit"][end] for end in ("low", "high")], [low, high], rtol=1e-5
    )


def test_hit_rates_of_a_concept_have_wilsons_interval():
    value = np.full((30, 2, len(SCORES)), np.nan, dtype=np.float32)
    value[:21, 0] = 1.0
    value[:12, 1] = 0.0
    value[:5, 1] = 1.0
    scores = score_pointing(value, names=("a", "b"), bootstrap=Bootstrap(40, 3))
    for name, hits, number in (("a", 21, 21), ("b", 5, 12)):
        expected = binomtest(hits, number).proportion_ci(0.95, method="wilson")
        for rate in ("cam_hit", "similarity_hit", "centre_hit", "reachable"):
            found = scores["labels"][name][rate]
            assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert scores["labels"]["a"]["chance"]["low"] == 1.0, "a mean, by bootstrap"


def test_a_batch_without_boxes_has_no_pairs(maps):
    empty = {
        "concept": torch.ones(B, K),
        "box": torch.zeros(0, 4),
        "box_row": torch.zeros(0, dtype=torch.int64),
        "box_class": torch.zeros(0, dtype=torch.int64),
    }
    assert pointing_rows(*maps, empty).isnan().all()
