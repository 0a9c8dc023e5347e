"""The worst errors are the wrong decisions with the largest loss, as scikit-learn computes it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_loss

from csr.evaluation.worst_errors import MAX_TARGETS, worst_errors

NAN = float("nan")


def test_wrong_decisions_come_by_their_loss_and_unannotated_ones_never():
    probability = np.array([[0.9, 0.2], [0.6, 0.1], [0.05, 0.5], [0.99, 0.9], [0.7, 0.0]])
    label = np.array([[0.0, 0], [1, 1], [1, NAN], [1, 1], [0.25, 1]])
    found = worst_errors(
        probability, label, probability >= 0.5, names=("a", "b"), image_ids="vwxyz", per_target=2
    )
    assert [row["image_id"] for row in found["a"]] == ["x", "v"] and found["a"][0]["place"] == 2
    assert [row["image_id"] for row in found["b"]] == ["z", "w"]
    for row, p in ((found["a"][0], 0.05), (found["b"][1], 0.1)):
        assert row["loss"] == pytest.approx(sklearn_loss([1], [[1 - p, p]], labels=[0, 1]))
        assert row["probability"] == p and row["called"] is False and row["label"] == 1
    assert np.isfinite(found["b"][0]["loss"]), "a probability of 0"


def test_none_are_asked_for_or_none_are_wrong_and_many_targets_are_cut():
    ones = np.ones((2, 50))
    right = {"names": [str(i) for i in range(50)], "image_ids": "ab", "per_target": 1}
    assert worst_errors(ones, ones, ones > 0, **right) == {}
    assert worst_errors(ones, 0 * ones, ones > 0, **{**right, "per_target": 0}) == {}
    probability = np.linspace(0.51, 0.99, 50)[None]
    found = worst_errors(probability, 0 * probability, probability > 0, **right)
    assert list(found) == [str(i) for i in range(50 - MAX_TARGETS, 50)], "the largest losses, in their order"
