"""The rule of the best epoch: AUROC first, of equal ones the loss; without AUROC the loss alone."""

from __future__ import annotations

import itertools
import math

import pytest

from csr.training.checkpoints.best_epoch import is_better, merit


def best_of(epochs: list[tuple[float | None, float]]) -> int:
    """Choose as training does: an epoch after the other, from nothing."""
    best, place = (-math.inf, -math.inf), -1
    for number, (auc, loss) in enumerate(epochs):
        if is_better(merit(auc, loss), best):
            best, place = merit(auc, loss), number
    return place


@pytest.mark.parametrize(
    "epochs, chosen",
    [
        ([(0.6, 0.1), (0.7, 0.9)], 1),
        ([(0.7, 0.9), (0.6, 0.1)], 0),
        ([(0.7, 0.5), (0.7, 0.4), (0.7, 0.45)], 1),
        ([(0.7, 0.5), (0.7, 0.5)], 0),
        ([(None, 0.5), (None, 0.3), (None, 0.4)], 1),
        ([(math.nan, 0.5), (math.nan, 0.3)], 1),
        ([(0.0, 5.0)], 0),
    ],
)
def test_the_best_epoch(epochs, chosen):
    assert best_of(epochs) == chosen


def test_the_order_of_epochs_matters_only_among_equals():
    epochs = [(0.6, 0.1), (0.8, 0.9), (0.8, 0.2), (0.7, 0.0)]
    for order in itertools.permutations(epochs):
        assert order[best_of(list(order))] == (0.8, 0.2)


def test_none_and_nan_mean_the_same():
    assert merit(None, 0.25) == merit(math.nan, 0.25) == (-0.25, -0.25)
