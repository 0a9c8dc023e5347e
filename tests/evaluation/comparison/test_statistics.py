"""DeLong against its O(n^2) definition, Holm against a hand calculation, p-values against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from csr.evaluation.comparison.delong import delong
from csr.evaluation.comparison.multiple_tests import bootstrap_p, holm, over_runs, runs_p


def slow_delong(first: np.ndarray, second: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return difference and variance by the kernel of every pair of a positive and a negative image."""
    areas, above, below = [], [], []
    for score in (first, second):
        positive, negative = score[truth], score[~truth]
        kernel = np.zeros((len(positive), len(negative)))
        for i, x in enumerate(positive):
            for j, y in enumerate(negative):
                kernel[i, j] = 1.0 if x > y else 0.5 if x == y else 0.0
        areas.append(kernel.mean())
        above.append(kernel.mean(axis=1))
        below.append(kernel.mean(axis=0))
    variance = 0.0
    for parts, areas_of in ((above, areas), (below, areas)):
        count = len(parts[0])
        s = [
            [sum((p - a) * (q - b) for p, q in zip(x, y)) / (count - 1) for y, b in zip(parts, areas_of)]
            for x, a in zip(parts, areas_of)
        ]
        variance += (s[0][0] + s[1][1] - 2 * s[0][1]) / count
    return areas[1] - areas[0], variance


@pytest.mark.parametrize("seed", range(6))
def test_delong_is_its_definition_over_all_pairs(seed):
    draw = np.random.default_rng(seed)
    truth = draw.random(60) < 0.3
    first = (0.4 * truth + draw.random(60)).round(seed % 3 + 1)  # ties
    second = (0.2 * truth + 0.5 * first + draw.random(60)).round(2)
    found = delong(first, second, truth)
    difference, variance = slow_delong(first, second, truth)
    assert found is not None
    assert found.first == pytest.approx(roc_auc_score(truth, first))
    assert found.second == pytest.approx(roc_auc_score(truth, second))
    assert found.difference == pytest.approx(difference)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-5)
    assert found.p == pytest.approx(math.erfc(abs(difference) / math.sqrt(2 * variance)))


def test_delong_of_a_model_with_itself_and_of_too_few_images():
    draw = np.random.default_rng(0)
    score, truth = draw.random(30), draw.random(30) < 0.5
    same = delong(score, score, truth)
    assert same is not None and (same.difference, same.p) == (0.0, 1.0)
    assert delong(score, score, np.arange(30) < 1) is None
    assert delong(score, score, np.arange(30) < 29) is None
    perfect = delong(-truth.astype(float), truth.astype(float), truth)
    assert perfect is not None and (perfect.difference, perfect.p) == (1.0, 0.0)


def test_delong_rejects_five_per_cent_of_equal_models():
    draw = np.random.default_rng(1)
    rejected = 0
    for _ in range(400):
        truth = np.arange(120) < 40
        latent = truth + draw.normal(size=120)
        found = delong(latent + draw.normal(size=120), latent + draw.normal(size=120), truth)
        assert found is not None
        rejected += found.p < 0.05
    assert stats.binom.cdf(rejected, 400, 0.05) > 0.001 and stats.binom.sf(rejected, 400, 0.05) > 0.001


def test_holm_is_the_step_down_by_hand():
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2 -> 0.06, 0.5 x 1; never falling
    assert holm([0.02, 0.5, None, 0.01, 0.03]) == pytest.approx([0.06, 0.5, None, 0.04, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == [] and holm([None]) == [None] and holm([0.0]) == [0.0]


def test_the_p_of_resamples_counts_both_sides_of_zero():
    difference = np.array([-1.0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert bootstrap_p(difference) == pytest.approx(2 * 2 / 10)
    assert bootstrap_p(-difference) == pytest.approx(2 * 2 / 10)
    assert bootstrap_p(np.arange(1.0, 100)) == pytest.approx(2 / 100)
    assert bootstrap_p(np.zeros(9)) == 1.0
    assert bootstrap_p(np.array([np.nan, np.nan, 1.0])) is None and bootstrap_p(np.zeros(0)) is None


def test_intervals_and_tests_over_runs_are_students_by_hand():
    values = [0.7, 0.8, 0.9]
    sd, low, high = over_runs(values)
    assert sd == pytest.approx(0.1)
    # t(0.975, 2) = 4.302653
    assert (low, high) == pytest.approx((0.8 - 4.302653 * 0.1 / 3**0.5, 0.8 + 4.302653 * 0.1 / 3**0.5))
    assert np.isnan(over_runs([0.7])).all() and np.isnan(over_runs([0.7, np.nan])).all()
    # differences 0.1, 0.2, 0.3: t = 0.2 / (0.1 / sqrt 3) = 3.4641, two degrees of freedom
    paired = runs_p([0.5, 0.5, 0.5], [0.6, 0.7, 0.8], paired=True)
    assert paired == pytest.approx(1 - 3.4641016 / (2 + 3.4641016**2) ** 0.5, rel=1e-6)
    welch = runs_p([0.5, 0.6, 0.55], values, paired=False)
    assert welch == pytest.approx(stats.ttest_ind([0.5, 0.6, 0.55], values, equal_var=False).pvalue)
    assert runs_p([0.5], [0.6], paired=True) is None
    assert runs_p([0.5, 0.6], [0.6, 0.7], paired=True) is None  # every pair differs by the same
