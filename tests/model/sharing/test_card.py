"""A card: probabilities, the labels that are called, and the way from a file to model input."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from tiny_model import M, tiny_card

from csr.model.sharing.card import Card, card_from_dict, target_probability
from csr.model.sharing.reference import Reference
from csr.runtime.errors import InputError

PROBABILITY_BT = torch.tensor([[0.2, 0.1], [0.3, 0.7], [0.4, 0.6]])


def test_a_diagnosis_is_called_from_its_threshold_on():
    called_BT = tiny_card().called(PROBABILITY_BT)  # thresholds 0.3 and 0.7
    assert called_BT.tolist() == [[False, False], [True, True], [True, False]]


def test_where_exactly_one_diagnosis_holds_the_likeliest_is_called_whatever_its_threshold():
    card = dataclasses.replace(tiny_card(), task_loss="ce")
    assert card.exactly_one and not tiny_card().exactly_one
    assert card.called(PROBABILITY_BT).tolist() == [[True, False], [False, True], [False, True]]


def test_one_image_is_called_as_it_is_in_a_batch():
    for loss in ("bce", "ce"):
        card = dataclasses.replace(tiny_card(), task_loss=loss)
        rows = [card.called(probability_T) for probability_T in PROBABILITY_BT]
        assert torch.equal(torch.stack(rows), card.called(PROBABILITY_BT))


def test_without_measured_thresholds_one_half_is_used():
    card = dataclasses.replace(tiny_card(), reference=Reference())
    assert card.called(PROBABILITY_BT).tolist() == [[False, False], [False, True], [False, True]]
    assert card.called_concepts(torch.tensor([[0.4, 0.5, 0.6]])).tolist() == [[False, True, True]]


def test_concepts_are_called_from_their_own_thresholds_on():
    probability_BK = torch.tensor([[0.45, 0.45, 0.65]])  # thresholds 0.4, 0.5 and 0.6
    assert tiny_card().called_concepts(probability_BK).tolist() == [[True, False, True]]


def test_probabilities_sum_to_one_only_where_exactly_one_diagnosis_holds():
    logit_BT = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    for loss, expected_BT in (
        ("ce", logit_BT.softmax(1)),
        ("bce", logit_BT.sigmoid()),
        ("focal", logit_BT.sigmoid()),
    ):
        assert torch.equal(target_probability(logit_BT, task_loss=loss), expected_BT)
        assert torch.equal(
            dataclasses.replace(tiny_card(), task_loss=loss).probability(logit_BT), expected_BT
        )


def read_back(preprocessing: object) -> Card:
    value = {**tiny_card().to_dict(), "preprocessing": preprocessing}
    return card_from_dict(json.loads(json.dumps(value)), num_prototypes=M, where="config.json")


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
def test_the_way_to_a_square_comes_back(resize):
    saved = dataclasses.replace(tiny_card().preprocessing, resize=resize)
    assert read_back(saved.to_dict()).preprocessing == saved


def test_a_card_without_a_way_squashes_and_one_that_squashes_is_written_as_it_was():
    before = {"image_size": 64, "stored_size": 72, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert read_back(before).preprocessing.resize == "squash"
    assert read_back(before).preprocessing.to_dict() == before


@pytest.mark.parametrize("wrong", ["Crop", "", None, 1, ["crop"], {}])
def test_an_unknown_way_is_refused(wrong):
    with pytest.raises(InputError, match="config.json: preprocessing resize .*squash, letterbox, crop"):
        read_back({**tiny_card().preprocessing.to_dict(), "resize": wrong})
