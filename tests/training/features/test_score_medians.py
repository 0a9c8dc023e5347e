"""Medians over ranks beside numpy's over all images, and what travels for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forked_ranks import on_ranks

from csr.runtime import distributed
from csr.training.features.score_medians import ScoreRows

N, K, M = 11, 3, 2


def drawn():
    draw = np.random.default_rng(3)
    score_NKM = draw.random((N, K, M), dtype=np.float32)
    concept_NK = (draw.random((N, K)) < 0.4).astype(np.float32)
    concept_NK[0, 1] = np.nan
    return score_NKM, concept_NK


def rows_of(places):
    score_NKM, rows = torch.from_numpy(drawn()[0]), ScoreRows()
    for chunk in places:
        rows.add(score_NKM[chunk], torch.tensor(chunk))
    return rows


def by_numpy():
    score_NKM, concept_NK = drawn()
    absent = [np.median(score_NKM[concept_NK[:, k] == 0, k], axis=0) for k in range(K)]
    present = [np.median(score_NKM[concept_NK[:, k] == 1, k], axis=0) for k in range(K)]
    return np.array(absent), np.array(present)


@pytest.mark.parametrize("block_bytes", [1, 2 * 4 * N * M, 2**20])
def test_medians_are_numpys_however_many_concepts_travel_at_once(block_bytes):
    rows = rows_of([[4, 0, 1], [9, 10, 2, 3], [5, 8, 6, 7]])
    found = rows.medians(torch.from_numpy(drawn()[1]), block_bytes=block_bytes)
    for one, other in zip(found, by_numpy(), strict=True):
        np.testing.assert_array_equal(one.numpy(), other)


def test_ranks_of_uneven_shares_and_one_without_images_agree():
    shares = [[[0, 3], [6, 9]], [[1, 4], [7, 10], [2, 5], [8]], []]

    def body():
        rows = rows_of(shares[distributed.rank()])
        return [each.numpy().tolist() for each in rows.medians(torch.from_numpy(drawn()[1]))]

    expected = [each.tolist() for each in by_numpy()]
    assert on_ranks(body, world=3) == [expected] * 3
