"""Curves pass through the points of scikit-learn's, and stay few and short for many labels and images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import auc, precision_score, recall_score, roc_auc_score, roc_curve

from csr.evaluation.curves import MAX_LABELS, MAX_POINTS, measure_curves

NAMES = [f"label {i}" for i in range(60)]


@pytest.fixture(scope="module")
def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    label = (draw.random((3000, 60)) < 0.3).astype(float)
    probability = (0.2 * label + draw.random(label.shape)) / 1.2
    label[draw.random(label.shape) < 0.1] = np.nan
    label[:, 7] = 1.0
    return probability, label, probability >= 0.5


def test_the_labels_that_rank_worst_have_thin_curves_with_the_area_of_the_whole_ones(tables):
    probability, label, called = tables
    found = measure_curves(probability, label, called, names=NAMES)
    assert len(found["labels"]) == MAX_LABELS and found["left_out"] == 59 - MAX_LABELS
    assert NAMES[7] not in found["labels"], "one class has no curve"
    areas = {}
    for i, name in enumerate(NAMES):
        known = ~np.isnan(label[:, i])
        if i != 7:
            areas[name] = roc_auc_score(label[known, i], probability[known, i])
    assert list(found["labels"]) == sorted(areas, key=areas.get)[:MAX_LABELS]
    for name, row in found["labels"].items():
        x, y = np.array(row["roc"]).T
        assert len(x) <= MAX_POINTS and len(row["pr"]) <= MAX_POINTS
        assert auc(x, y) == pytest.approx(areas[name], abs=0.01)
        assert row["roc"][0] == [0, 0] and row["roc"][-1] == [1, 1] and row["pr"][-1][0] == 1
        known = ~np.isnan(label[:, NAMES.index(name)])
        truth, guess = label[known, NAMES.index(name)], called[known, NAMES.index(name)]
        assert row["called_pr"] == pytest.approx([recall_score(truth, guess), precision_score(truth, guess)])
        assert row["called_roc"] == pytest.approx([np.mean(guess[truth == 0]), recall_score(truth, guess)])
        assert row["prevalence"] == pytest.approx(truth.mean())
    assert len(json.dumps(found)) < 150_000


def test_a_short_curve_is_whole_and_nothing_called_has_no_precision():
    probability, label = np.array([[0.1], [0.4], [0.35], [0.8]]), np.array([[0.0], [0], [1], [1]])
    row = measure_curves(probability, label, probability > 1, names=["a"])["labels"]["a"]
    expected = roc_curve(label[:, 0], probability[:, 0])[:2]
    np.testing.assert_allclose(np.array(row["roc"]).T, expected)
    assert row["called_pr"] is None and row["called_roc"] == [0.0, 0.0]
