"""Calibration against closed forms, scipy and scikit-learn; it is never chosen where it does not help."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from tiny_model import CONCEPTS, TARGETS, tiny_card

from csr.evaluation.thresholds import best_f1_thresholds, decide_labels
from csr.model.calibration import (
    MIN_POSITIVES,
    Calibration,
    calibrate,
    calibrate_softmax,
    calibrated_logits,
    calibrated_thresholds,
    calibration_from_dict,
    fit_platt,
    fit_temperature,
    log_loss,
)
from csr.model.sharing.reference import reference_from_dict
from csr.runtime.errors import InputError


def drawn(number: int, *, scale: float, offset: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits z and labels with P(1 | z) = sigmoid(scale z + offset)."""
    draw = np.random.default_rng(seed)
    logit = draw.normal(0.0, 2.0, number)
    return logit, (draw.random(number) < 1 / (1 + np.exp(-(scale * logit + offset)))).astype(np.float64)


def platt_objective(at: np.ndarray, logit: np.ndarray, label: np.ndarray) -> float:
    n = label.sum()
    target = np.where(label > 0, (n + 1) / (n + 2), 1 / (len(label) - n + 2))
    p = 1 / (1 + np.exp(-(at[0] * logit + at[1])))
    return float(-np.sum(target * np.log(p) + (1 - target) * np.log(1 - p)))


@pytest.mark.parametrize(("number", "seed"), [(40, 0), (300, 1), (2000, 2)])
def test_platts_line_is_the_minimum_that_scipy_and_scikit_learn_find(number, seed):
    logit, label = drawn(number, scale=0.6, offset=-1.5, seed=seed)
    found = fit_platt(logit, label)
    best = minimize(platt_objective, [1.0, 0.0], args=(logit, label), method="BFGS")
    np.testing.assert_allclose(found, best.x, atol=1e-4)

    class Same(LogisticRegression):
        def decision_function(self, X):
            return X[:, 0]

    plain = Same().fit(logit[:, None], label)
    fitted = CalibratedClassifierCV(_frozen(plain), method="sigmoid", ensemble=False)
    inner = fitted.fit(logit[:, None], label).calibrated_classifiers_[0].calibrators[0]
    np.testing.assert_allclose(found, [-inner.a_, -inner.b_], atol=1e-3)


def _frozen(estimator):
    from sklearn.frozen import FrozenEstimator

    return FrozenEstimator(estimator)


def test_separable_images_give_a_finite_line():
    scale, offset = fit_platt(np.array([-3.0] * 6 + [3.0] * 6), np.array([0.0] * 6 + [1.0] * 6))
    # both groups at their targets: 1/8 and 7/8, so 3 a = log 7
    assert (scale, offset) == (pytest.approx(math.log(7) / 3, abs=1e-6), pytest.approx(0.0, abs=1e-6))


def test_the_positive_weight_of_the_loss_is_taken_off():
    logit, label = drawn(6000, scale=1.0, offset=-math.log(8), seed=3)
    one = calibrate(logit[:, None], label[:, None], weight_L=np.array([8.0]))[0]
    assert one.method in ("unweighted", "platt")
    assert one.scale == pytest.approx(1.0, abs=0.1) and one.offset == pytest.approx(-math.log(8), abs=0.15)
    few = calibrate(logit[:60, None], label[:60, None], weight_L=np.array([8.0]))[0]
    assert few == Calibration("unweighted", 1.0, -math.log(8)), "few images cannot tell a better line"


def test_what_is_calibrated_already_stays_as_it_is_to_the_last_bit():
    logit, label = drawn(200, scale=1.0, offset=0.0, seed=8)
    one = calibrate(logit[:, None], label[:, None], weight_L=np.ones(1))[0]
    assert one == Calibration("identity")
    tensor = torch.from_numpy(logit)[:, None].float()
    assert calibrated_logits(tensor, [one]) is tensor and calibrated_logits(tensor, None) is tensor


def test_on_other_images_it_helps_where_it_can_and_is_seldom_taken_where_it_cannot():
    gains: dict[float, list[float]] = {0.0: [], -2.0: []}
    for seed in range(20):
        for scale, offset in ((1.0, 0.0), (0.4, -2.0)):
            logit, label = drawn(120, scale=scale, offset=offset, seed=seed)
            one = calibrate(logit[:, None], label[:, None], weight_L=np.array([1.0]))[0]
            other, truth = drawn(20000, scale=scale, offset=offset, seed=100 + seed)
            gains[offset].append(log_loss(other, truth) - log_loss(one.scale * other + one.offset, truth))
    assert min(gains[-2.0]) > 0.3, "a wrong slope and a wrong base rate"
    assert gains[0.0].count(0.0) >= 17 and np.mean(gains[0.0]) > -0.005, "nothing to mend"


def test_a_label_with_too_few_images_of_a_kind_stays_a_score():
    logit, label = drawn(100, scale=0.3, offset=-1.0, seed=5)
    table, columns = np.zeros((100, 4)), MIN_POSITIVES
    table[: columns - 1, 0] = 1
    table[:columns, 1] = 1
    table[: 101 - columns, 2] = 1
    table[:, 3] = np.nan
    found = calibrate(np.repeat(logit[:, None], 4, axis=1), table, weight_L=np.ones(4))
    assert [one.is_probability for one in found] == [False, True, False, False]
    assert found[0] == Calibration("score", 1.0, 0.0)


def test_a_line_that_falls_is_not_taken():
    logit, label = drawn(400, scale=-1.0, offset=0.0, seed=6)
    one = calibrate(logit[:, None], label[:, None], weight_L=np.ones(1))[0]
    assert one.scale > 0


def test_thresholds_move_along_so_that_decisions_stay():
    draw = torch.Generator().manual_seed(1)
    logit = 3 * torch.randn(5000, 3, generator=draw)
    label = (torch.rand(5000, 3, generator=draw) < (0.5 * logit - 1).sigmoid()).numpy().astype(np.float64)
    threshold, found = decide_labels(logit, label, task_loss="bce", weight_L=torch.tensor([1.0, 4.0, 9.0]))
    raw = torch.from_numpy(best_f1_thresholds(logit.sigmoid().numpy(), label)).float()
    assert all(one.is_probability and one.scale != 1.0 for one in found)
    assert not torch.allclose(threshold, raw, atol=0.05)
    other = 3 * torch.randn(20000, 3, generator=draw)
    before, after = other.sigmoid() >= raw, calibrated_logits(other, found).sigmoid() >= threshold
    assert torch.equal(before, after)


def test_a_threshold_of_half_is_where_the_line_sends_a_logit_of_zero():
    moved = calibrated_thresholds(np.array([0.5, 1.0]), [Calibration("platt", 2.0, -1.0)] * 2)
    assert moved.tolist() == pytest.approx([1 / (1 + math.e), 1.0])


def test_of_diagnoses_that_exclude_each_other_the_likeliest_stays_so():
    draw = np.random.default_rng(7)
    logit = draw.normal(0, 3, (3000, 4))
    p = np.exp(0.5 * logit) / np.exp(0.5 * logit).sum(axis=1, keepdims=True)
    truth = (draw.random((3000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    found = calibrate_softmax(logit, np.eye(4)[truth])
    assert {one.method for one in found} == {"temperature"} and len(set(found)) == 1
    assert found[0].scale == pytest.approx(0.5, abs=0.05) and found[0].offset == 0.0
    best = minimize(
        lambda at: -np.mean(np.take_along_axis(_log_softmax(at[0] * logit), truth[:, None], 1)),
        [1.0],
        method="Nelder-Mead",
        tol=1e-9,
    )
    assert fit_temperature(logit, truth) == pytest.approx(best.x[0], abs=1e-4)
    calm = calibrate_softmax(np.log(p), np.eye(4)[truth])
    assert calm[0].method == "identity" or calm[0].scale == pytest.approx(1.0, abs=0.1)
    assert not calibrate_softmax(logit[:6], np.eye(4)[[0] * 6])[0].is_probability


def _log_softmax(value: np.ndarray) -> np.ndarray:
    return value - np.log(np.exp(value).sum(axis=1, keepdims=True))


def test_a_card_gives_calibrated_probabilities_and_survives_json():
    lines = (Calibration("platt", 0.5, -1.0), Calibration())
    concepts = (Calibration("unweighted", 1.0, -2.0), Calibration("identity"), Calibration())
    card = tiny_card()
    reference = dataclasses.replace(
        card.reference, target_calibration_T=lines, concept_calibration_K=concepts
    )
    card = dataclasses.replace(card, reference=reference)
    p = card.probability(torch.tensor([[1.0, 1.0]]))[0].tolist()
    assert p == pytest.approx([1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-1.0))])
    p = card.concept_probability(torch.tensor([0.0, 0.0, 0.0])).tolist()
    assert p == pytest.approx([1 / (1 + math.exp(2.0)), 0.5, 0.5])
    notice = card.scores_notice()
    assert TARGETS[1] in notice and CONCEPTS[2] in notice and TARGETS[0] not in notice
    assert CONCEPTS[2] not in card.scores_notice(has_concepts=False)
    text = json.dumps(reference.to_dict(concept_names=CONCEPTS, target_names=TARGETS))
    back = reference_from_dict(
        json.loads(text), concept_names=CONCEPTS, target_names=TARGETS, num_prototypes=4, where="x"
    )
    assert back.target_calibration_T == lines and back.concept_calibration_K == concepts


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"method": "platt", "scale": 1.0},
        {"method": "magic", "scale": 1.0, "offset": 0.0},
        {"method": "platt", "scale": 0.0, "offset": 0.0},
        {"method": "platt", "scale": -1.0, "offset": 0.0},
        {"method": "platt", "scale": True, "offset": 0.0},
        {"method": "platt", "scale": "1", "offset": 0.0},
        {"method": "platt", "scale": 1.0, "offset": float("nan")},
        {"method": "platt", "scale": float("inf"), "offset": 0.0},
        {"method": ["platt"], "scale": 1.0, "offset": 0.0},
    ],
)
def test_lines_that_cannot_be_are_refused(value):
    with pytest.raises(InputError, match="^x"):
        calibration_from_dict(value, where="x")
