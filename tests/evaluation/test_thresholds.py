"""Thresholds against a search over all of them, medians against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from csr.evaluation.thresholds import best_f1_thresholds, concept_medians, measure_reference


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1(seed):
    draw = np.random.default_rng(seed)
    probability = np.round(draw.random((40, 3)), 1)  # many ties
    label = (draw.random((40, 3)) < 0.3).astype(float)
    label[draw.random((40, 3)) < 0.2] = np.nan
    chosen = best_f1_thresholds(probability, label)
    for i in range(3):
        known = ~np.isnan(label[:, i])
        truth, score = label[known, i], probability[known, i]
        best = max(f1_score(truth, score >= cut, zero_division=0) for cut in np.linspace(-0.05, 1.05, 23))
        assert f1_score(truth, score >= chosen[i], zero_division=0) == pytest.approx(best)


def test_a_threshold_lies_between_probabilities_and_is_a_half_without_positives():
    probability = np.array([[0.2, 0.3], [0.8, 0.6]])
    assert best_f1_thresholds(probability, np.array([[0.0, 0.0], [1.0, 0.0]])).tolist() == [0.5, 0.5]
    assert best_f1_thresholds(probability[:, :1], np.array([[1.0], [1.0]])).tolist() == [0.1]


def test_medians_are_those_of_images_with_and_without_the_concept():
    score = torch.rand(9, 2, 3)
    first = torch.tensor([1, 1, 0, 0, float("nan"), 1, 0, 0, 0])
    label = torch.stack([first, torch.ones(9)], dim=1)
    absent, present = concept_medians(score, label)
    for m in range(3):
        assert float(absent[0, m]) == pytest.approx(np.median(score[[2, 3, 6, 7, 8], 0, m].numpy()))
        assert float(present[0, m]) == pytest.approx(np.median(score[[0, 1, 5], 0, m].numpy()))
        overall = np.median(score[:, 1, m].numpy())
        assert float(absent[1, m]) == pytest.approx(overall), "no image is without it"
        assert float(present[1, m]) == pytest.approx(overall)


def test_medians_of_more_scores_than_one_call_of_torchs_quantile_takes():
    score = torch.arange(2**24 + 2, dtype=torch.float32).view(-1, 1, 2)
    absent, present = concept_medians(score, torch.zeros(len(score), 1))
    assert absent.tolist() == present.tolist() == [[2.0**23, 2.0**23 + 1]]


def test_thresholds_come_from_validation_and_medians_from_training_images():
    score, concept = torch.rand(6, 2, 3), torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3)
    val_concept, val_target = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0], [0.0]])
    measured = measure_reference(
        medians=concept_medians(score, concept),
        val_concept_logit_NK=torch.tensor([[0.1, 0.6], [0.3, 0.2]]).logit(),
        val_concept_NK=val_concept,
        val_target_logit_NT=torch.tensor([[0.9], [0.5]]).logit(),
        val_target_NT=val_target,
        task_loss="bce",
        concept_weight_K=torch.ones(2),
        target_weight_T=torch.ones(1),
    )
    assert measured.concept_threshold_K.tolist() == pytest.approx([0.2, 0.4])
    assert measured.target_threshold_T.tolist() == pytest.approx([0.7])
    assert {one.method for one in measured.target_calibration_T} == {"score"}, "two images tell nothing"
    assert torch.equal(measured.present_KM, concept_medians(score, concept)[1])


def test_a_model_without_concepts_or_prototypes_leaves_those_values_none():
    measured = measure_reference(
        medians=None,
        val_concept_logit_NK=None,
        val_concept_NK=np.zeros((12, 2)),
        val_target_logit_NT=torch.tensor([[2.0]] * 6 + [[-2.0]] * 6),
        val_target_NT=np.array([[1.0]] * 5 + [[0.0]] * 6 + [[1.0]]),
        task_loss="bce",
        concept_weight_K=torch.ones(2),
        target_weight_T=torch.ones(1),
    )
    assert (measured.absent_KM, measured.present_KM) == (None, None)
    assert (measured.concept_threshold_K, measured.concept_calibration_K) == (None, None)
    assert measured.target_calibration_T[0].is_probability and len(measured.target_threshold_T) == 1
