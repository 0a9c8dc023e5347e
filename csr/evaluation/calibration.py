"""Calibration of probabilities: Brier score, expected calibration error, reliability curve.

Ten bins of equal width, closed on the right as those of scikit-learn's `calibration_curve`, which takes no
weights; a bin's gap is the difference of its mean probability and its mean label. Soft labels count as the
fractions that they are.

Letters: N entries, L labels, R rows of weights, S bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from csr.evaluation.weighted_metrics import ratio

NUM_BINS = 10


class Bin(NamedTuple):
    """Entries whose probability lies in one bin: their number, mean probability and mean label."""

    n: int
    probability: float
    observed: float


def bin_of(probability_N: np.ndarray, *, num_bins: int = NUM_BINS) -> np.ndarray:
    """Return the bin of each probability, int64 (N,)."""
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    return np.searchsorted(edges[1:-1], probability_N)


class Calibration:
    """Calibration errors of probabilities against labels, for every row of weights.

    Args:
        probability_N: 0 to 1.
        label_N: 0 to 1, none missing.
    """

    def __init__(self, probability_N: np.ndarray, label_N: np.ndarray) -> None:
        gap_N = probability_N.astype(np.float64) - label_N
        self._square_N = gap_N**2
        self._gap_NS = np.zeros((len(gap_N), NUM_BINS))
        self._gap_NS[np.arange(len(gap_N)), bin_of(probability_N)] = gap_N

    def scores(self, weight_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return Brier score and expected calibration error, each (R,), for weight_RN."""
        total_R = weight_RN.sum(axis=1)
        gap_R = np.abs(weight_RN @ self._gap_NS).sum(axis=1)
        return ratio(weight_RN @ self._square_N, total_R), ratio(gap_R, total_R)


def reliability(probability_N: np.ndarray, label_N: np.ndarray) -> list[Bin]:
    """Return the bins that have entries, lowest first.

    Args:
        probability_N: 0 to 1.
        label_N: 0 to 1, none missing.
    """
    place_N = bin_of(probability_N)
    return [
        Bin(
            int(np.sum(place_N == s)),
            float(np.mean(probability_N[place_N == s], dtype=np.float64)),
            float(np.mean(label_N[place_N == s], dtype=np.float64)),
        )
        for s in np.unique(place_N)
    ]


def calibration_errors(probability_N: np.ndarray, label_N: np.ndarray) -> dict[str, float | None]:
    """Return `ece` and `brier` over the annotated images; None without any.

    Args:
        probability_N: 0 to 1.
        label_N: 0 to 1, NaN where not annotated.
    """
    known_N = ~np.isnan(label_N)
    brier_1, ece_1 = Calibration(probability_N[known_N], label_N[known_N]).scores(np.ones((1, known_N.sum())))
    values = {"ece": float(ece_1[0]), "brier": float(brier_1[0])}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def mean_ece(probability_NL: np.ndarray, label_NL: np.ndarray) -> float:
    """Return the mean of the labels' expected calibration errors; NaN where no label is annotated.

    Args:
        probability_NL: 0 to 1.
        label_NL: 0 to 1, NaN where not annotated; such a label is left out of the mean.
    """
    pairs = zip(probability_NL.T, label_NL.T, strict=True)
    errors = [calibration_errors(probability_N, label_N)["ece"] for probability_N, label_N in pairs]
    known = [error for error in errors if error is not None]
    return float(np.mean(known)) if known else float("nan")


def errors_by_label(
    raw_NL: np.ndarray, probability_NL: np.ndarray, label_NL: np.ndarray, *, methods: Mapping[str, str]
) -> dict[str, Any]:
    """Return `method`, and `calibration_errors` `before` and `after` calibration, of each label.

    Args:
        raw_NL: probabilities before calibration.
        probability_NL: after it.
        label_NL: 0 to 1, NaN where not annotated.
        methods: label -> how it was calibrated, in order.
    """
    return {
        name: {
            "method": method,
            "before": calibration_errors(raw_NL[:, i], label_NL[:, i]),
            "after": calibration_errors(probability_NL[:, i], label_NL[:, i]),
        }
        for i, (name, method) in enumerate(methods.items())
    }


def reliability_by_label(
    probability_NL: np.ndarray, label_NL: np.ndarray, *, names: tuple[str, ...]
) -> dict[str, Any]:
    """Return the bins of all entries (`pooled`) and of each label (`labels`).

    Args:
        probability_NL: 0 to 1.
        label_NL: 0 to 1, NaN where not annotated.
        names: of the labels.
    """
    known_NL = ~np.isnan(label_NL)
    labels = {
        name: reliability(probability_NL[known_N, i], label_NL[known_N, i])
        for i, (name, known_N) in enumerate(zip(names, known_NL.T, strict=True))
    }
    return {"pooled": reliability(probability_NL[known_NL], label_NL[known_NL]), "labels": labels}
