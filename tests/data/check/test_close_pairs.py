"""Pairs by trees and by bands are those of a comparison of all with all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from csr.data.check import close_pairs as module
from csr.data.check.close_pairs import band_pairs, close_pairs, has_few_band_pairs
from csr.data.check.groups import Groups


def listed(parts) -> list[tuple[int, int]]:
    return [tuple(pair) for part in parts for pair in part.tolist()]


@pytest.mark.parametrize("axes", [1, 3, 8])
@pytest.mark.parametrize("points", ["spread", "clusters", "equal", "few"])
def test_close_pairs_are_those_of_scipy(monkeypatch, axes, points):
    monkeypatch.setattr(module, "CELL", 7)
    monkeypatch.setattr(module, "_AT_ONCE", 40)
    rng = np.random.default_rng(1)
    point_ND = {
        "spread": lambda: rng.random((150, axes)),
        "clusters": lambda: rng.random((4, axes))[rng.integers(0, 4, 150)] + rng.normal(0, 0.01, (150, axes)),
        "equal": lambda: np.ones((50, axes)),
        "few": lambda: rng.random((3, axes)),
    }[points]().astype(np.float32)
    distance_NN = squareform(pdist(point_ND.astype(float)))
    radius = float(np.quantile(distance_NN, 0.1)) or 0.5
    found = listed(close_pairs(point_ND, radius))
    wanted = {tuple(pair) for pair in np.argwhere(np.triu(distance_NN <= radius, 1)).tolist()}
    assert wanted <= {*found} and len(found) == len({*found})
    assert all(a < b and distance_NN[a, b] <= radius * 1.001 for a, b in found)


def test_points_of_one_group_are_passed_over_and_others_are_not():
    rng = np.random.default_rng(3)
    point_ND = np.concatenate([np.zeros((4000, 2)), rng.random((200, 2)) + 5, [[0.3, 0]]]).astype(np.float32)
    groups, seen = Groups(len(point_ND)), 0
    for pair_P2 in close_pairs(point_ND, 0.5, groups):
        seen += len(pair_P2)
        groups.join(pair_P2)
    assert [*range(4000), 4200] in groups.several()
    assert seen < 600_000, "of eight million"


@pytest.mark.parametrize("differences", [0, 2, 5])
def test_strings_that_differ_little_share_a_band(differences):
    rng = np.random.default_rng(2)
    bit_NF = rng.random((20, 48))[rng.integers(0, 20, 200)] < 0.5
    bit_NF ^= rng.random(bit_NF.shape) < 0.03
    flipped_NN = (bit_NF[:, None] != bit_NF).sum(axis=2)
    found = listed(band_pairs(bit_NF, differences))
    wanted = {tuple(pair) for pair in np.argwhere(np.triu(flipped_NN <= differences, 1)).tolist()}
    assert wanted and wanted <= {*found}
    assert has_few_band_pairs(bit_NF, differences, len(found))
    assert not has_few_band_pairs(bit_NF, differences, len(found) - 1)
    groups = Groups(len(bit_NF))
    for pair_P2 in band_pairs(bit_NF, differences, groups):
        groups.join(pair_P2[flipped_NN[pair_P2[:, 0], pair_P2[:, 1]] <= differences])
    slow = Groups(len(bit_NF))
    slow.join(np.array(sorted(wanted)))
    assert groups.several() == slow.several()
