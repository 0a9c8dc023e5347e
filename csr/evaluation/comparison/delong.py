"""DeLong's test of two AUROCs on the same images (DeLong et al. 1988), in O(n log n) by midranks.

Sun and Xu, "Fast implementation of DeLong's algorithm", IEEE Signal Processing Letters 2014.

Letters: N images, P positive and Q negative ones; two models.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class DeLong(NamedTuple):
    """AUROC of either model, the second minus the first with its 95 % interval, and the two-sided p."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


def delong(first_N: np.ndarray, second_N: np.ndarray, truth_N: np.ndarray) -> DeLong | None:
    """Return the test of two scores of the same images, or None where it does not exist.

    Args:
        first_N, second_N: scores; higher means positive.
        truth_N: bool.

    Returns:
        None with fewer than two positive or two negative images. Where the difference has no variance, p is 1
        for equal AUROCs and 0 for others.
    """
    from scipy.stats import norm

    num_positive, num_negative = int(truth_N.sum()), int((~truth_N).sum())
    if min(num_positive, num_negative) < 2:
        return None
    parts = [_placements(score_N, truth_N) for score_N in (first_N, second_N)]
    above_2P = np.stack([positive_P for positive_P, _ in parts])
    above_2Q = np.stack([negative_Q for _, negative_Q in parts])
    area_2 = above_2P.mean(axis=1)
    covariance_22 = np.cov(above_2P) / num_positive + np.cov(above_2Q) / num_negative
    variance = float(covariance_22[0, 0] + covariance_22[1, 1] - 2 * covariance_22[0, 1])
    difference = float(area_2[1] - area_2[0])
    sd = math.sqrt(max(0.0, variance))
    if sd < 1e-12:  # rounding of equal placements
        p = float(abs(difference) < 1e-12)
    else:
        p = float(2 * norm.sf(abs(difference) / sd))
    reach = float(norm.ppf(0.975)) * sd
    return DeLong(float(area_2[0]), float(area_2[1]), difference, difference - reach, difference + reach, p)


def _placements(score_N: np.ndarray, truth_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of negatives below each positive (P,), and of positives above each negative (Q,)."""
    from scipy.stats import rankdata

    positive_P, negative_Q = score_N[truth_N], score_N[~truth_N]
    rank = rankdata(np.concatenate([positive_P, negative_Q]))
    num_positive, num_negative = len(positive_P), len(negative_Q)
    below_P = (rank[:num_positive] - rankdata(positive_P)) / num_negative
    above_Q = 1.0 - (rank[num_positive:] - rankdata(negative_Q)) / num_positive
    return below_P, above_Q
