"""What the kept scores still know of the dropped ones, against ridge regression by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from refined_models import ALL, dropping
from sklearn.model_selection import KFold
from tiny_model import CONCEPTS, K, M

from csr.explain.refine.reliance import reliance_lines, remaining_reliance


def by_ridge(x: np.ndarray, y: np.ndarray) -> float:
    """Cross-validated R^2 with the normal equations of a ridge regression of penalty 1, fold by fold."""
    predicted = np.zeros(len(y))
    for fit_rows, rows in KFold(5, shuffle=True, random_state=3).split(x):
        mean, sd = x[fit_rows].mean(axis=0), x[fit_rows].std(axis=0)
        z, centre = (x[fit_rows] - mean) / sd, y[fit_rows].mean()
        beta = np.linalg.solve(z.T @ z + np.eye(x.shape[1]), z.T @ (y[fit_rows] - centre))
        predicted[rows] = (x[rows] - mean) / sd @ beta + centre
    return 1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()


def test_remaining_reliance_equals_a_ridge_regression_by_hand():
    rng = np.random.default_rng(0)
    score = rng.normal(0.4, 0.05, (60, K * M))
    score[:, 1] = score[:, 0] - 0.5 * score[:, 6] + rng.normal(0, 0.01, 60)  # nearly a sum of kept ones
    score[:, 9] = 0.0  # constant: nothing to predict
    kept, keep = ALL.copy(), ALL.copy()
    kept[1, 1] = keep[1, 1] = False  # dropped before
    keep[0, 1] = keep[2, 1] = keep[2, 2] = False
    found = remaining_reliance(score, kept_KM=kept, keep_KM=keep, seed=3)
    columns = [f for f in range(K * M) if keep.ravel()[f]]
    for (k, m), value in found.r2.items():
        y = score[:, k * M + m]
        assert value == pytest.approx(by_ridge(score[:, columns], (y - y.mean()) / y.std()), abs=1e-6)
    assert sorted(found.r2) == [(0, 1), (2, 2)] and found.r2[0, 1] > 0.8 and found.r2[2, 2] < 0.2
    record = found.to_dict(CONCEPTS)
    assert record["highest_r2"] == found.r2[0, 1] and record["median_r2"] == pytest.approx(
        np.mean(list(found.r2.values()))
    )
    assert set(record["r2"]["Cavity"]) == {"1"}
    assert "--head keep, or train again with more images" in reliance_lines(found, head="refit")[1]
    assert "--head keep" not in reliance_lines(found, head="keep")[1]
    low = dataclasses.replace(found, r2={(0, 0): 0.49})
    assert len(reliance_lines(low, head="refit")) == 1


def test_where_nothing_is_dropped_or_left_there_is_no_reliance():
    score = np.random.default_rng(0).normal(size=(30, K * M))
    assert remaining_reliance(score, kept_KM=ALL, keep_KM=ALL, seed=0) is None
    assert remaining_reliance(score[:4], kept_KM=ALL, keep_KM=~dropping((0, 0)).numpy(), seed=0) is None
    score[:, 1:] = 0.25  # what is left never changes
    assert remaining_reliance(score, kept_KM=ALL, keep_KM=~dropping((0, 0)).numpy(), seed=0).r2 == {
        (0, 0): 0.0
    }
    assert reliance_lines(None, head="refit") == []
