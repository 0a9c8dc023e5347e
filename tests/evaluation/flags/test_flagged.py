"""How often notes appear, counted by hand; Wilson's interval by its formula."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_model import tiny_card

from csr.evaluation.flags.flagged import measure_doubt, measure_novelty, rate, wrong_images
from csr.model.doubt import DoubtRule
from csr.model.novelty import STATISTICS, Novelty
from csr.model.sharing.card import Card


def with_limit(limit: float) -> Card:
    card = tiny_card()
    reference = dataclasses.replace(card.reference, novelty=Novelty({}, limit, 30))
    return dataclasses.replace(card, reference=reference)


def test_images_above_the_limit_are_counted_once_and_by_statistic():
    score = torch.zeros(5, len(STATISTICS))
    score[0, 0], score[0, 2], score[3, 2], score[4, 1] = 4.0, 5.0, math.nan, 3.0
    found = measure_novelty({"novelty": score}, with_limit(3.0))
    assert found is not None and (found["hits"], found["n"], found["limit"]) == (2, 5, 3.0)
    assert found["by"] == {name: [1, 0, 2, 0, 0, 0][i] for i, name in enumerate(STATISTICS)}
    assert measure_novelty({}, tiny_card()) is None


def test_a_rate_has_wilsons_interval():
    z, p, n = 1.959964, 0.4, 5
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = rate(2, 5)
    assert found["value"] == 0.4
    limits = [(centre + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert [found["low"], found["high"]] == pytest.approx(limits, abs=1e-5)
    assert rate(0, 0)["value"] is None


def test_wrong_and_right_images_are_counted_by_hand():
    card = tiny_card()  # called from 0.3 and from 0.7
    reference = dataclasses.replace(card.reference, doubt=DoubtRule(0.5, 0.8, 20))
    card = dataclasses.replace(card, reference=reference)
    probability = torch.tensor([[0.9, 0.1], [0.4, 0.1], [0.1, 0.1], [0.9, 0.1], [0.4, 0.1]])
    label = np.array([[1, 0], [0, 0], [0, 0], [1, 1], [np.nan, 0.0]])
    assert wrong_images(card.called(probability).numpy(), label).tolist() == [False, True, False, True, False]
    found = measure_doubt({"target": probability}, label, card)
    assert (found["sensitivity"]["hits"], found["sensitivity"]["n"]) == (1, 2), "the second, not the fourth"
    assert (found["specificity"]["hits"], found["specificity"]["n"]) == (1, 3), "the first; none is called"
    assert found["measured_rule"]
