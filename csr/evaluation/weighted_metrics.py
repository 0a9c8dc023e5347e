"""Metrics of weighted images, many rows of weights at once.

A row gives the value that scikit-learn gives for images repeated as often; scikit-learn takes one row a call,
which is a thousand calls for an interval.

Letters: N entries (images, or image-label pairs), R rows of weights, G groups of equal scores.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Confusion(NamedTuple):
    """Weights of true and false positives and negatives, each (R,)."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """F1, (R,); NaN without a positive entry, as in training."""
        return ratio(2 * self.tp, np.where(self.tp + self.fn > 0, 2 * self.tp + self.fp + self.fn, 0))

    @property
    def sensitivity(self) -> np.ndarray:
        """Share of positive entries that are called, (R,); NaN without any."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> np.ndarray:
        """Share of negative entries that are not called, (R,); NaN without any."""
        return ratio(self.tn, self.tn + self.fp)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, NaN where below is 0; any shape."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def confusion(called_N: np.ndarray, truth_N: np.ndarray, weight_RN: np.ndarray) -> Confusion:
    """Return the weights of decisions against the truth, both bool (N,), for weight_RN."""
    kinds = (called_N & truth_N, called_N & ~truth_N, ~called_N & truth_N, ~called_N & ~truth_N)
    return Confusion(*(weight_RN @ np.stack(kinds, axis=1).astype(np.float64)).T)


class Ranking:
    """Entries sorted once by their score, for every row of weights.

    Args:
        score_N: finite.
        truth_N: bool.
    """

    def __init__(self, score_N: np.ndarray, truth_N: np.ndarray) -> None:
        self._order = np.argsort(score_N, kind="stable")
        self._truth_N = truth_N[self._order].astype(np.float64)
        is_first_N = np.diff(score_N[self._order], prepend=-np.inf) > 0
        self._start_G = np.flatnonzero(is_first_N)

    def scores(self, weight_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return AUROC and average precision, each (R,), for weight_RN.

        They are NaN without both classes: the average precision of positives alone is 1 whatever the scores.
        """
        if not len(self._order):
            return np.full(len(weight_RN), np.nan), np.full(len(weight_RN), np.nan)
        weight_RN = weight_RN[:, self._order]
        all_RG = np.add.reduceat(weight_RN, self._start_G, axis=1)
        pos_RG = np.add.reduceat(weight_RN * self._truth_N, self._start_G, axis=1)
        return _auroc(pos_RG, all_RG - pos_RG), _average_precision(pos_RG[:, ::-1], all_RG[:, ::-1])


def _auroc(pos_RG: np.ndarray, neg_RG: np.ndarray) -> np.ndarray:
    """Return how often a positive entry is above a negative one, ties counting half; lowest score first."""
    below_RG = np.cumsum(neg_RG, axis=1) - neg_RG / 2
    return ratio(np.sum(pos_RG * below_RG, axis=1), pos_RG.sum(axis=1) * neg_RG.sum(axis=1))


def _average_precision(pos_RG: np.ndarray, all_RG: np.ndarray) -> np.ndarray:
    """Return the precision at each threshold, weighted by the recall it adds; highest score first."""
    precision_RG = ratio(np.cumsum(pos_RG, axis=1), np.cumsum(all_RG, axis=1))
    has_both_R = all_RG.sum(axis=1) > pos_RG.sum(axis=1)
    return ratio(np.sum(pos_RG * np.nan_to_num(precision_RG), axis=1), pos_RG.sum(axis=1) * has_both_R)
