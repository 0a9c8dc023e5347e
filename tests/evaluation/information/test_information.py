"""Probes against plain scikit-learn loops; leakage where it is planted and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from csr.evaluation.bootstrap import Bootstrap, drawn_images
from csr.evaluation.information.leakage import measure_information
from csr.evaluation.information.probe import STRENGTHS, probe
from csr.evaluation.information.representations import LOGITS, SCORES, TRUE, Represented

NAMES = ("first", "second")
SIZES = {"train": 400, "val": 150, "test": 300}


def images(draw: np.random.Generator, number: int, *, leak: float, seen: float = 2.0) -> Represented:
    """Four concepts and a hidden cause; targets follow from both.

    Logits show the concepts, as clearly as `seen`, and `leak` of the hidden cause.
    """
    concept_NK = (draw.random((number, 4)) < 0.4).astype(float)
    hidden_N = draw.standard_normal(number)
    drive_N2 = np.stack([concept_NK @ [2.0, -1.5, 0, 0], concept_NK @ [0, 0, 2.0, 1.0]], axis=1)
    noise_N2 = draw.logistic(size=(number, 2))
    target_N2 = (drive_N2 + 2 * hidden_N[:, None] + noise_N2 > 0.5).astype(np.float32)
    logit_NK = seen * (2 * concept_NK - 1) + draw.standard_normal((number, 4)) + leak * hidden_N[:, None]
    score_NF = logit_NK @ draw_of_head() + 0.3 * draw.standard_normal((number, 8))
    return Represented({TRUE: concept_NK, LOGITS: logit_NK, SCORES: score_NF}, target_N2)


def draw_of_head() -> np.ndarray:
    return np.random.default_rng(99).standard_normal((4, 8))


def three(seed: int = 0, **options: float) -> list[Represented]:
    draw = np.random.default_rng(seed)
    return [images(draw, number, **options) for number in SIZES.values()]


def plain_scores(
    parts: list[str], sides: list[Represented], target: int
) -> dict[float, tuple[float, np.ndarray]]:
    """C -> (log loss of validation, log odds of test), one target, images with labels alone."""
    train, val, test = (
        [np.hstack([side.features[p] for p in parts]), side.target_NT[:, target]] for side in sides
    )
    for side in (train, val):
        known = ~np.isnan(side[1])
        side[0], side[1] = side[0][known], side[1][known]
    found = {}
    for strength in STRENGTHS:
        scaler = StandardScaler().fit(train[0])
        model = LogisticRegression(C=strength, max_iter=2000).fit(scaler.transform(train[0]), train[1] >= 0.5)
        loss = log_loss(
            val[1] >= 0.5, model.predict_proba(scaler.transform(val[0]))[:, 1], labels=[False, True]
        )
        found[strength] = loss, model.decision_function(scaler.transform(test[0]))
    return found


@pytest.fixture(scope="module")
def leaking() -> tuple[list[Represented], dict]:
    sides = three(leak=1.5)
    return sides, measure_information(*sides, names=NAMES, bootstrap=Bootstrap(40, 5))


def test_probes_and_intervals_are_those_of_a_plain_loop(leaking):
    sides, found = leaking
    label = sides[2].target_NT
    draws = [drawn_images(SIZES["test"], r, seed=5) for r in range(40)]
    aurocs = {}
    for name, parts in {
        **{part: [part] for part in (TRUE, LOGITS, SCORES)},
        **{f"{TRUE} and {part}": [TRUE, part] for part in (LOGITS, SCORES)},
    }.items():
        plain = [plain_scores(parts, sides, target) for target in range(2)]
        strength = min(STRENGTHS, key=lambda c: sum(of_target[c][0] for of_target in plain))
        score = [of_target[strength][1] for of_target in plain]
        row = found["probes"][name]
        assert row["strength"] == strength
        assert row["features"] == sum(sides[0].features[part].shape[1] for part in parts)
        for target, target_name in enumerate(NAMES):
            expected = roc_auc_score(label[:, target], score[target])
            assert row["labels"][target_name]["value"] == pytest.approx(expected, abs=1e-4)
        aurocs[name] = np.array(
            [
                np.mean([roc_auc_score(label[i, t], score[t][i]) for t in range(2)])
                for i in (range(300), *draws)
            ]
        )
        assert row["macro"]["value"] == pytest.approx(aurocs[name][0], abs=1e-4)
        low, high = np.quantile(aurocs[name][1:], [0.025, 0.975])
        assert (row["macro"]["low"], row["macro"]["high"]) == pytest.approx((low, high), abs=1e-3)
    for part, kind, one in (
        (LOGITS, "minus_true", LOGITS),
        (LOGITS, "beyond_true", f"{TRUE} and {LOGITS}"),
        (SCORES, "beyond_true", f"{TRUE} and {SCORES}"),
    ):
        difference = aurocs[one] - aurocs[TRUE]
        macro = found["leakage"][part][kind]["macro"]
        assert macro["value"] == pytest.approx(difference[0], abs=2e-4)
        low, high = np.quantile(difference[1:], [0.025, 0.975])
        assert (macro["low"], macro["high"]) == pytest.approx((low, high), abs=1e-3)


def test_planted_leakage_is_found(leaking):
    _, found = leaking
    for part in (LOGITS, SCORES):
        for kind in ("minus_true", "beyond_true"):
            assert found["leakage"][part][kind]["macro"]["low"] > 0.03


@pytest.mark.parametrize("seen", [2.0, 0.5])
def test_without_leakage_nothing_is_found_beyond_the_true_concepts(seen):
    found = measure_information(*three(3, leak=0.0, seen=seen), names=NAMES, bootstrap=Bootstrap(40, 0))
    leaked = found["leakage"][LOGITS]
    assert abs(leaked["beyond_true"]["macro"]["value"]) < 0.01
    if seen < 1:  # badly predicted concepts tell less than true ones
        assert leaked["minus_true"]["macro"]["high"] < 0
    assert found["images"] == {"train": 400, "val": 150} and found["unknown"] == 0 and found["left_out"] == []


def test_leakage_hidden_by_badly_predicted_concepts_is_found_beyond_them():
    found = measure_information(*three(4, leak=1.0, seen=0.2), names=NAMES, bootstrap=Bootstrap(40, 0))
    leaked = found["leakage"][LOGITS]
    assert leaked["beyond_true"]["macro"]["low"] > 0.05
    assert leaked["beyond_true"]["macro"]["value"] > leaked["minus_true"]["macro"]["value"] + 0.02


def test_what_is_not_annotated_is_left_out_of_targets_and_the_mean_of_concepts():
    train, val, test = three(leak=0.5)
    train.target_NT[::3, 0] = np.nan
    test.target_NT[:50, 0] = np.nan
    val.target_NT[:, 1] = np.nan
    train.features[TRUE][:40, 2] = test.features[TRUE][5, 1] = np.nan
    found = measure_information(train, val, test, names=NAMES, bootstrap=Bootstrap(0))
    assert found["unknown"] == pytest.approx(40 / 1600)
    filled = [side.features[TRUE].copy() for side in (train, val, test)]
    means = np.nanmean(train.features[TRUE], axis=0)
    for values in filled:
        values[np.isnan(values)] = np.broadcast_to(means, values.shape)[np.isnan(values)]
    sd = np.nanstd(train.features[TRUE], axis=0)
    known = ~np.isnan(train.target_NT[:, 0])
    strength = found["probes"][TRUE]["strength"]
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit(((filled[0] - means) / sd)[known], train.target_NT[known, 0])
    expected = roc_auc_score(test.target_NT[50:, 0], model.decision_function((filled[2] - means) / sd)[50:])
    assert found["probes"][TRUE]["labels"]["first"]["value"] == pytest.approx(expected, abs=1e-4)
    macro, labels = found["probes"][TRUE]["macro"], found["probes"][TRUE]["labels"]
    assert macro["low"] is None
    assert macro["value"] == pytest.approx(np.mean([labels[name]["value"] for name in NAMES]))


def test_a_target_of_one_class_has_no_probe_and_validation_without_labels_chooses_nothing():
    train, val, test = three(leak=0.5)
    train.target_NT[:, 1] = 0
    val.target_NT[:] = np.nan
    found = measure_information(train, val, test, names=NAMES, bootstrap=Bootstrap(0))
    assert found["left_out"] == ["second"]
    row = found["probes"][LOGITS]
    assert row["labels"]["second"]["value"] is None and row["strength"] == 0.1
    assert row["macro"]["value"] == row["labels"]["first"]["value"]
    scores = probe(
        train.features[TRUE],
        train.target_NT,
        val_NF=np.zeros((0, 4)),
        val_target_NT=np.zeros((0, 2)),
        test_NF=test.features[TRUE],
    ).score_NT
    assert np.isnan(scores[:, 1]).all() and np.isfinite(scores[:, 0]).all()
