"""p-values: of resampled differences, of runs, and corrected for their number (Holm 1979).

scipy.stats has the false discovery rate (`false_discovery_control`) but no family-wise correction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number, step down; None stays None and is not counted."""
    known = [i for i, p in enumerate(p_values) if p is not None]
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i] or 0.0)):
        largest = max(largest, min(1.0, (len(known) - rank) * float(p_values[i] or 0.0)))
        corrected[i] = largest
    return corrected


def bootstrap_p(difference_R: np.ndarray) -> float | None:
    """Return the two-sided p of resampled differences against 0; None without any.

    Twice the smaller share of resamples on either side of 0, which itself counts as both; one resample is
    added to either side, so that p is never 0 (Davison and Hinkley 1997).

    Args:
        difference_R: one for each resample, NaN where it has no value.
    """
    known = difference_R[~np.isnan(difference_R)]
    if not len(known) or 2 * len(known) < len(difference_R):
        return None
    sides = min(int(np.sum(known <= 0)), int(np.sum(known >= 0)))
    return min(1.0, 2 * (sides + 1) / (len(known) + 1))


def runs_p(first: Sequence[float], second: Sequence[float], *, paired: bool) -> float | None:
    """Return the two-sided p of a t-test over runs; None with fewer than two on a side, or no variance.

    Args:
        first, second: one score a run.
        paired: the runs of either side belong together in pairs, in this order; else Welch's test.
    """
    from scipy import stats

    if min(len(first), len(second)) < 2 or not np.isfinite([*first, *second]).all():
        return None
    a, b = np.asarray(first), np.asarray(second)
    constant = np.ptp(b - a) if paired else max(np.ptp(a), np.ptp(b))
    if constant < 1e-12:
        return None
    p = stats.ttest_rel(b, a).pvalue if paired else stats.ttest_ind(b, a, equal_var=False).pvalue
    return float(p)


def over_runs(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float, float]:
    """Return (sd, low, high) of the mean of runs: Student's t interval; NaN with fewer than two.

    Args:
        values: one score a run.
        level: of the interval.
    """
    from scipy import stats

    if len(values) < 2 or not np.isfinite(values).all():
        return np.nan, np.nan, np.nan
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * sd / len(values) ** 0.5
    return sd, mean - reach, mean + reach
