"""Regions around peaks, against a flood fill; cells in boxes, against the pointing game."""

from __future__ import annotations

import numpy as np
import pytest
from atlas_records import flood

from csr.explain.atlas.regions import box_around, is_in, peak_of, region_around_peak, sight_of


def test_a_region_is_what_is_connected_to_the_peak():
    map_HW = np.array([[9, 8, 0, 7], [6, 7, 0, 6], [0, 0, 7, 0]], dtype=np.float32)
    expected = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert (region_around_peak(map_HW) == expected).all(), (
        "neither the other hill nor the cell across a corner"
    )
    assert box_around(expected) == (0.0, 0.0, 0.5, pytest.approx(2 / 3))
    assert peak_of(map_HW) == (0.125, pytest.approx(1 / 6))
    attention = np.zeros((3, 4))
    attention[1, 1], attention[1, 3] = 0.25, 0.75
    sight = sight_of(map_HW, attention)
    assert sight.cam_share == 0.25 and sight.cam_peak == (0.875, 0.5) and sight.score == 9
    flat = np.zeros((2, 3), dtype=np.float32)
    assert region_around_peak(flat).all() and box_around(region_around_peak(flat)) == (0.0, 0.0, 1.0, 1.0)


def test_random_regions_equal_the_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        map_HW = rng.normal(size=(6, 5)).astype(np.float32)
        assert [tuple(cell) for cell in np.argwhere(region_around_peak(map_HW))] == flood(map_HW)


def test_a_cell_is_in_a_box_as_the_pointing_game_has_it_and_no_box_is_too_small_for_any():
    rng, size = np.random.default_rng(0), 7
    cells = [(x / size, y / size, (x + 1) / size, (y + 1) / size) for y in range(size) for x in range(size)]
    for _ in range(300):
        low = rng.uniform(0, 0.95, 2)
        box_R4 = np.array([[*low, *np.minimum(1, low + rng.choice([0.004, 0.1, 0.3], 2))]])
        inside = np.array([is_in(cell, box_R4)[0] for cell in cells])
        assert inside.any()
        if (box_R4[0, 2:] - box_R4[0, :2] > 1 / size).all():
            centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in cells]
            expected = [(box_R4[0, :2] <= c).all() and (c <= box_R4[0, 2:]).all() for c in centres]
            assert inside.tolist() == expected
    assert not is_in(cells[0], np.array([[1 / 7, 0.0, 0.5, 0.5]])).any(), "to touch is not enough"
    corner = np.array([[1 / 7 - 0.01, 1 / 7 - 0.01, 1 / 7 + 0.01, 1 / 7 + 0.01]])
    assert [i for i, cell in enumerate(cells) if is_in(cell, corner)[0]] == [0, 1, 7, 8]
