"""Scores of labels are scikit-learn's, masks honoured; intervals are those of a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from csr.evaluation.bootstrap import Bootstrap, draw_weights, drawn_images, estimate, limits, wilson
from csr.evaluation.calibration import NUM_BINS, reliability
from csr.evaluation.label_scores import SCORES, LabelMeasure, mean_of_known, score_labels
from csr.evaluation.metrics import multilabel_metrics

NAMES = ("a", "b", "never", "always", "masked")


@pytest.fixture
def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """40 images, 5 labels: two with masks and ties, one never and one always positive, one not annotated."""
    draw = np.random.default_rng(3)
    label = (draw.random((40, 5)) < 0.3).astype(np.float32)
    label[:, 2], label[:, 3], label[:, 4] = 0, 1, np.nan
    label[draw.random((40, 5)) < 0.2] = np.nan
    raw = 0.3 * np.nan_to_num(label) + 0.7 * draw.random((40, 5))
    probability = raw.clip(0, 0.9).round(1) + 0.03  # ties
    return probability.astype(np.float32), label, probability >= 0.5


def slow_scores(probability: np.ndarray, label: np.ndarray, called: np.ndarray) -> list[float]:
    """SCORES of one label by scikit-learn."""
    truth = label >= 0.5
    if not len(truth):
        return [np.nan] * len(SCORES)
    place = np.minimum(np.maximum(np.ceil(probability * NUM_BINS) - 1, 0), NUM_BINS - 1)
    gaps = [
        abs(np.sum(probability[place == s] - label[place == s], dtype=np.float64)) for s in range(NUM_BINS)
    ]
    both = truth.any() and not truth.all()
    return [
        metrics.roc_auc_score(truth, probability) if both else np.nan,
        metrics.average_precision_score(truth, probability) if both else np.nan,
        metrics.f1_score(truth, called) if truth.any() else np.nan,
        metrics.recall_score(truth, called) if truth.any() else np.nan,
        metrics.recall_score(~truth, ~called) if not truth.all() else np.nan,
        np.mean((probability.astype(np.float64) - label) ** 2),
        sum(gaps) / len(truth),
    ]


def slow_table(probability: np.ndarray, label: np.ndarray, called: np.ndarray) -> np.ndarray:
    known = ~np.isnan(label)
    rows = [slow_scores(probability[k, i], label[k, i], called[k, i]) for i, k in enumerate(known.T)]
    columns = np.array(rows).T
    macro = [c[~np.isnan(c)].mean() if not np.isnan(c).all() else np.nan for c in columns]
    return np.array([*rows, macro, slow_scores(probability[known], label[known], called[known])])


def test_every_score_is_that_of_scikit_learn(tables):
    fast = LabelMeasure(*tables)(np.ones((1, 40)))[0]
    np.testing.assert_allclose(fast, slow_table(*tables), atol=1e-12)


def test_binary_labels_give_scikit_learns_brier_score(tables):
    probability, label, _ = tables
    known = ~np.isnan(label[:, 0])
    fast = LabelMeasure(*tables)(np.ones((1, 40)))[0, 0, SCORES.index("brier")]
    assert fast == pytest.approx(metrics.brier_score_loss(label[known, 0], probability[known, 0]), abs=1e-7)


def test_intervals_are_those_of_a_loop_over_the_same_resamples(tables):
    measured = estimate(LabelMeasure(*tables), num_images=40, bootstrap=Bootstrap(20, 7), cells_per_image=5)
    slow = []
    for r in range(20):
        drawn = drawn_images(40, r, seed=7)
        slow.append(slow_table(*(table[drawn] for table in tables)))
    values = np.array(slow)
    for i, s in np.ndindex(measured.low.shape):
        column = values[:, i, s][~np.isnan(values[:, i, s])]
        if 2 * len(column) < 20:
            assert np.isnan(measured.low[i, s]) and np.isnan(measured.high[i, s])
        else:
            np.testing.assert_allclose(measured.low[i, s], np.quantile(column, 0.025), atol=1e-12)
            np.testing.assert_allclose(measured.high[i, s], np.quantile(column, 0.975), atol=1e-12)


def test_chunks_of_resamples_change_nothing(tables, monkeypatch):
    whole = estimate(LabelMeasure(*tables), num_images=40, bootstrap=Bootstrap(9, 1))
    monkeypatch.setattr("csr.evaluation.bootstrap.MAX_CELLS", 80)
    parts = estimate(LabelMeasure(*tables), num_images=40, bootstrap=Bootstrap(9, 1))
    np.testing.assert_array_equal(whole.low, parts.low)
    np.testing.assert_array_equal(whole.high, parts.high)


def test_a_resample_depends_on_the_seed_and_its_number_alone():
    some = draw_weights(30, [5, 2], seed=1)
    np.testing.assert_array_equal(some[0], np.bincount(drawn_images(30, 5, seed=1), minlength=30))
    assert (some.sum(axis=1) == 30).all()
    assert (draw_weights(30, [5], seed=2) != some[:1]).any() and (some[0] != some[1]).any()


def test_without_resamples_there_are_no_intervals(tables):
    measured = estimate(LabelMeasure(*tables), num_images=40, bootstrap=Bootstrap(0))
    assert (
        np.isnan(measured.low).all() and np.isnan(measured.high).all() and not np.isnan(measured.value).all()
    )


def test_an_interval_needs_a_value_in_half_of_the_resamples():
    value = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, np.nan]])
    low, high = limits(value)
    assert (
        low[0] == pytest.approx(1.05) and high[0] == pytest.approx(2.95) and np.isnan([low[1], high[1]]).all()
    )


def test_macro_scores_are_those_that_training_prints(tables):
    probability, label, called = tables
    scores = score_labels(
        probability, label, called, names=NAMES, threshold_L=np.full(5, 0.5), bootstrap=Bootstrap(0)
    )
    old = multilabel_metrics(probability, label, names=NAMES)
    assert scores["macro"]["auroc"]["value"] == pytest.approx(old.auc)
    assert scores["macro"]["auprc"]["value"] == pytest.approx(old.mean_ap)
    assert scores["macro"]["f1_at_threshold"]["value"] == pytest.approx(old.f1_macro)
    assert scores["micro"]["f1_at_threshold"]["value"] == pytest.approx(old.f1_micro)


@pytest.mark.parametrize(("hits", "number"), [(21, 21), (0, 7), (1, 1), (3, 50), (150, 200)])
def test_wilsons_interval_is_that_of_scipy(hits, number):
    expected = binomtest(hits, number).proportion_ci(0.95, method="wilson")
    assert wilson(hits / number, number) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert np.isnan(wilson(np.nan, 0)).all()


def test_proportions_of_labels_have_wilsons_interval_and_the_rest_that_of_the_bootstrap(tables):
    probability, label, called = tables
    bootstrap = Bootstrap(20, 7)
    scores = score_labels(probability, label, called, names=NAMES, threshold_L=None, bootstrap=bootstrap)
    measured = estimate(LabelMeasure(*tables), num_images=40, bootstrap=bootstrap)
    for i in (0, 1):
        known = ~np.isnan(label[:, i])
        truth, guess = label[known, i] >= 0.5, called[known, i]
        for score, kind in (("sensitivity", truth), ("specificity", ~truth)):
            right = int(np.sum(kind & (guess == truth)))
            expected = binomtest(right, int(kind.sum())).proportion_ci(0.95, method="wilson")
            found = scores["labels"][NAMES[i]][score]
            assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)
        for score in ("auroc", "auprc", "f1_at_threshold", "brier", "ece"):
            found, s = scores["labels"][NAMES[i]][score], SCORES.index(score)
            assert (found["low"], found["high"]) == (measured.low[i, s], measured.high[i, s])
    s = SCORES.index("sensitivity")
    assert scores["micro"]["sensitivity"]["low"] == measured.low[-1, s], "entries share images"


def test_all_right_is_not_certain():
    label = np.array([[1.0, 1.0]] * 9 + [[0.0, 0.0]] * 4)
    scores = score_labels(
        label, label, label > 0.5, names=("a", "b"), threshold_L=None, bootstrap=Bootstrap(20)
    )
    low = binomtest(9, 9).proportion_ci(0.95, method="wilson").low
    for row in (scores["labels"]["a"], scores["micro"]):  # 18 entries of 9 images count as 9
        assert row["sensitivity"] == {"value": 1.0, "low": pytest.approx(low), "high": 1.0}


def test_labels_without_a_score_have_none_and_masked_images_are_not_counted(tables):
    probability, label, called = tables
    scores = score_labels(probability, label, called, names=NAMES, threshold_L=None, bootstrap=Bootstrap(5))
    nothing = {"value": None, "low": None, "high": None}
    assert scores["labels"]["never"]["auroc"] == scores["labels"]["always"]["specificity"] == nothing
    assert scores["labels"]["masked"]["n"] == 0 and scores["labels"]["masked"]["brier"] == nothing
    assert scores["labels"]["a"]["n"] == int(np.sum(~np.isnan(label[:, 0])))
    assert scores["labels"]["a"]["positives"] == int(np.nansum(label[:, 0]))
    assert scores["labels"]["a"]["threshold"] is None


def test_soft_labels_are_positive_from_one_half_and_fractions_for_calibration():
    probability, label = np.array([[0.2], [0.9], [0.6]]), np.array([[1 / 3], [2 / 3], [0.5]])
    row = LabelMeasure(probability, label, probability >= 0.5)(np.ones((1, 3)))[0, 0]
    value = dict(zip(SCORES, row, strict=True))
    assert value["sensitivity"] == value["specificity"] == value["auroc"] == 1
    assert value["brier"] == pytest.approx(np.mean((probability - label) ** 2))
    assert value["ece"] == pytest.approx(np.mean(np.abs(probability - label)))


def test_reliability_is_scikit_learns_calibration_curve():
    draw = np.random.default_rng(0)
    probability = np.r_[draw.random(200), 0.0, 0.1, 0.3, 1.0]
    label = (draw.random(204) < probability).astype(float)
    bins = reliability(probability, label)
    observed, predicted = calibration_curve(label, probability, n_bins=NUM_BINS)
    np.testing.assert_allclose([b.probability for b in bins], predicted)
    np.testing.assert_allclose([b.observed for b in bins], observed)
    assert sum(b.n for b in bins) == 204


def test_the_mean_of_nothing_known_is_nothing():
    value = np.array([[[1.0, np.nan], [3.0, np.nan]]])
    np.testing.assert_array_equal(mean_of_known(value), [[2.0, np.nan]])
