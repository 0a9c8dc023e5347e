"""When a doctor is asked: by hand, and the limit against a search over all of them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_model import TARGETS, tiny_card, tiny_model

from csr.model.doubt import (
    SENSITIVITY,
    DoubtRule,
    choose_limit,
    doubt_from_dict,
    doubt_sentence,
    doubts,
    exclusive_targets,
    margins,
)
from csr.model.sharing.card import Card
from csr.model.sharing.readme import write_readme
from csr.runtime.errors import InputError


def with_rule(rule: DoubtRule | None, task_loss: str = "bce") -> Card:
    card = tiny_card()  # called from 0.3 and from 0.7
    reference = dataclasses.replace(card.reference, doubt=rule)
    return dataclasses.replace(card, task_loss=task_loss, reference=reference)


def test_several_diagnoses_are_doubted_for_a_contradiction_for_none_and_for_uncertainty():
    card = with_rule(DoubtRule(0.75, 0.8, 20, ("No finding",)))
    probability = torch.tensor([[0.9, 0.9], [0.1, 0.1], [0.35, 0.05], [0.9, 0.05], [0.1, 0.95]])
    both, none, uncertain, sure, healthy = doubts(card, probability)
    assert both == "Called together, though they exclude each other: Tuberculosis, No finding"
    assert none == "No diagnosis is called"
    assert uncertain is not None and "Tuberculosis most (0.35, threshold 0.30)" in uncertain
    assert sure is None and healthy is None, "0.9 x 0.95 is above 0.75"
    free = with_rule(DoubtRule(0.75, 0.8, 20))
    assert doubts(free, probability)[0] is None, "nothing excludes anything"


def test_without_a_rule_and_for_one_diagnosis_the_gap_decides():
    probability = torch.tensor([[0.6, 0.4], [0.7, 0.3]])
    assert [line is not None for line in doubts(with_rule(None), probability)] == [True, False]
    one = with_rule(DoubtRule(0.5, 0.8, 20), "ce")
    assert doubts(one, probability)[1] == "The two most likely diagnoses differ by 0.40, less than 0.50"


ASK = "Ask a doctor where"
TOGETHER = "or where another diagnosis is called together with No finding, "
SEVERAL = (
    f"{ASK} no diagnosis is called, {TOGETHER}or where the probability that all decisions on diagnoses "
    "are right (a product over them) is below 0.75: chosen on validation images, where it flags 80% of the "
    "20 with a wrong diagnosis."
)
ONE = (
    f"{ASK} the two most likely diagnoses differ by less than 0.50: chosen on validation images, where it "
    "flags 85% of the 40 with a wrong diagnosis."
)
UNMEASURED = (
    f"{ASK} the two most likely diagnoses differ by less than 0.30: no rule was measured on validation "
    "images, this one is the method's."
)


@pytest.mark.parametrize(
    "rule, task_loss, sentence",
    [
        (DoubtRule(0.75, 0.8, 20, ("No finding",)), "bce", SEVERAL),
        (DoubtRule(0.75, 0.8, 20), "bce", SEVERAL.replace(TOGETHER, "")),
        (DoubtRule(0.5, 0.85, 40, ("No finding",)), "ce", ONE),
        (None, "bce", UNMEASURED),
    ],
    ids=["several", "none excludes another", "exactly one", "not measured"],
)
def test_the_readme_of_a_model_says_the_rule_that_it_follows(rule, task_loss, sentence):
    card = with_rule(rule, task_loss)
    assert doubt_sentence(card) == sentence
    text = write_readme(card, tiny_model().description())
    assert [line for line in text.splitlines() if "doctor where" in line] == [f"- {sentence}"]


def test_the_rule_of_a_single_diagnosis_is_said_of_its_probability():
    card = dataclasses.replace(with_rule(None), target_names=("Sick",))
    assert "where the probability of Sick is between 0.35 and 0.65:" in doubt_sentence(card)
    asked = [line is not None for line in doubts(card, torch.tensor([[0.34], [0.36], [0.64], [0.66]]))]
    assert asked == [False, True, True, False]


def test_a_single_diagnosis_that_is_not_called_is_an_answer():
    """A measured rule asks where the decision is unsure, and not about every healthy image."""
    card = tiny_card()
    reference = dataclasses.replace(
        card.reference, doubt=DoubtRule(0.8, 0.8, 20), target_threshold_T=torch.tensor([0.3])
    )
    card = dataclasses.replace(card, target_names=("Sick",), task_loss="bce", reference=reference)
    probability = torch.tensor([[0.05], [0.25], [0.35], [0.9]])  # right with .95, .75, .35, .9
    assert [line is not None for line in doubts(card, probability)] == [False, True, True, False]
    found = margins(probability, probability >= 0.3, exclusive_T=torch.tensor([False]), exactly_one=False)
    assert found.tolist() == pytest.approx([0.95, 0.75, 0.35, 0.9])
    assert doubt_sentence(card).startswith("Ask a doctor where the probability that all decisions")


def test_the_margin_is_a_product_by_hand():
    probability, called = (
        torch.tensor([[0.9, 0.2], [0.9, 0.8], [0.1, 0.2]]),
        torch.tensor([[1, 0], [1, 1], [0, 0]]),
    )
    exclusive = torch.tensor([False, True])
    found = margins(probability, called.bool(), exclusive_T=exclusive, exactly_one=False)
    assert found.tolist() == pytest.approx([0.72, 0.0, 0.0])
    gaps = margins(probability, called.bool(), exclusive_T=exclusive, exactly_one=True)
    assert gaps.tolist() == pytest.approx([0.7, 0.1, 0.1])


@pytest.mark.parametrize("seed", range(4))
def test_no_lower_limit_flags_as_many_wrong_images(seed):
    draw = np.random.default_rng(seed)
    margin, wrong = np.round(draw.random(60), 2), draw.random(60) < 0.4
    found = choose_limit(torch.from_numpy(margin), torch.from_numpy(wrong))
    assert found is not None
    enough = [cut for cut in np.linspace(0, 1.01, 2021) if (margin[wrong] < cut).mean() >= SENSITIVITY]
    assert {tuple(margin < found[0])} == {tuple(margin < enough[0])}
    assert found[1] == pytest.approx((margin[wrong] < found[0]).mean())


def test_few_wrong_images_choose_nothing():
    assert choose_limit(torch.rand(50), torch.arange(50) < 9) is None


def test_a_target_that_comes_alone_excludes_the_others():
    label = torch.zeros(40, 4)
    label[:20, 0] = 1  # alone, but for one of its twenty images
    label[19:30, 1] = 1  # alone in ten of eleven
    label[28:35, 2] = 1  # too few
    label[30:40, 3] = 1  # with another one in five of ten
    label[39, 0] = float("nan")
    concept = torch.zeros(40, 2)
    assert exclusive_targets(label, concept).tolist() == [True, True, False, False]
    concept[20:25, 1] = 1
    assert exclusive_targets(label, concept).tolist() == [True, False, False, False]


def test_json_holds_the_rule_and_refuses_another():
    rule = DoubtRule(0.5, 0.8, 20, (TARGETS[1],))
    value = json.loads(json.dumps(rule.to_dict()))
    assert doubt_from_dict(value, target_names=TARGETS, where="x") == rule
    wrongs = (
        {"limit": -1},
        {"limit": float("nan")},
        {"exclusive": ["other"]},
        {"more": 1},
        {"sensitivity": True},
    )
    for wrong in wrongs:
        with pytest.raises(InputError, match="^x"):
            doubt_from_dict({**value, **wrong}, target_names=TARGETS, where="x")
