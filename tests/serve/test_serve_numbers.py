"""Answers equal csr.explain.explanation and csr.model.interaction called directly, to the last bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from serving import box, opened, png, put
from tiny_model import CONCEPTS, TARGETS, K, M, tiny_model, with_novelty

from csr.data.images.resize import resize_file
from csr.explain.explanation import explain, to_dict
from csr.model.edit_safety import check_safety
from csr.model.interaction import edited_maps, edited_scores, make_edits
from csr.model.sharing.reference import Reference
from csr.runtime.errors import InputError
from csr.serve.answers import prototypes_of, result_of
from csr.serve.case import Case, default_replacement
from csr.serve.edits import checked_edits
from csr.serve.schemas import Edits, EditsIn

BOXES = [box("positive", 0.0, 0.1, 0.45, 0.5), box("negative", 0.5, 0.5, 1.0, 0.9)]
DECISIONS = {CONCEPTS[1]: "rejected", CONCEPTS[2]: "confirmed"}


@pytest.fixture
def stored(model, tmp_path):
    """The image that `png` makes as `csr explain` would read it from a file."""
    (tmp_path / "scan.png").write_bytes(png())
    pixels = resize_file(tmp_path / "scan.png", model.card.preprocessing.stored_size).pixels_CSS
    return torch.from_numpy(pixels).unsqueeze(0)


@pytest.fixture
def output(model, stored):
    with torch.no_grad():
        return model(model.card.preprocessing.transform()(stored))


def edits_of(decisions, boxes, alpha=0.2):
    number = {"rejected": -1, "confirmed": 1}
    decision = torch.tensor([[number.get(decisions.get(name), 0) for name in CONCEPTS]])
    corners = torch.tensor([[b["x_min"], b["y_min"], b["x_max"], b["y_max"]] for b in boxes]).view(-1, 4)
    positive = torch.tensor([b["kind"] == "positive" for b in boxes], dtype=torch.bool)
    return make_edits(decision, box_R4=corners, positive_R=positive, alpha=alpha)


def test_an_image_without_edits_has_the_numbers_of_csr_explain(client, model, stored):
    state, expected = opened(client), to_dict(explain(model, stored)[0], neighbours={})
    for diagnosis, wanted in zip(state["diagnoses"], expected["diagnoses"], strict=True):
        assert {key: diagnosis[key] for key in wanted} == wanted
        assert diagnosis["before"] == {key: wanted[key] for key in ("probability", "logit", "present")}
    for concept, wanted in zip(state["concepts"], expected["concepts"], strict=True):
        for key in ("name", "probability", "threshold", "active", "best_prototype", "peak"):
            assert concept[key] == wanted[key], key
        assert dict(zip(TARGETS, concept["contribution"], strict=True)) == wanted["contribution"]
        assert concept["contribution_before"] == concept["contribution"]
        assert (
            concept["score"]
            == concept["similarity"]
            == wanted["prototypes"][wanted["best_prototype"]]["score"]
        )
    assert (state["gap"], state["needs_doctor"]) == (expected["gap"], expected["needs_doctor"])


@pytest.mark.parametrize("replacement", ["median", "zero"])
@pytest.mark.parametrize(("decisions", "boxes"), [(DECISIONS, []), ({}, BOXES), (DECISIONS, BOXES)])
def test_edits_have_the_numbers_of_the_interaction(client, model, output, decisions, boxes, replacement):
    state = put(
        client,
        opened(client)["session"],
        decisions=decisions,
        boxes=boxes,
        alpha=0.3,
        replacement=replacement,
    ).json()
    reference = model.card.reference if replacement == "median" else Reference()
    medians = {"absent_KM": reference.absent_KM, "present_KM": reference.present_KM}
    edits = edits_of(decisions, boxes, alpha=0.3)
    with torch.no_grad():
        score = edited_scores(output.similarity_maps, edits, **medians)
        logit = model.task_head(score)
        probability = model.card.probability(logit)
        safety = check_safety(
            output.similarity_maps,
            edits,
            diagnose=lambda s: model.card.probability(model.task_head(s)),
            called_BK=model.card.called_concepts(model.card.concept_probability(output.concept_logits)),
            **medians,
        )
    assert state["safety"]["regions_moved"] == float(safety.regions_B[0])
    assert [b["moved"] for b in state["safety"]["boxes"]] == safety.box_moved_R.tolist()
    assert [d["logit"] for d in state["diagnoses"]] == logit[0].tolist()
    assert [d["probability"] for d in state["diagnoses"]] == probability[0].tolist()
    weight_TKM = model.task_head.linear.weight.detach().double().unflatten(1, (K, M))
    share_TK = (weight_TKM * (score[0].double() - model.card.reference.absent_KM.double())).sum(dim=2)
    for k, concept in enumerate(state["concepts"]):
        assert concept["contribution"] == pytest.approx(share_TK[:, k].tolist(), abs=1e-9)
    assert state["safety"]["moved"] == float(safety.moved_B[0])
    assert (state["safety"]["warn"], state["safety"]["flips"]) == (
        bool(safety.warn_B[0]),
        bool(safety.flips_B[0]),
    )
    assert [b["peak"] for b in state["safety"]["boxes"]] == safety.peak_R.tolist()
    assert [b["contradicts"] for b in state["safety"]["boxes"]] == safety.contradicts_R.tolist()
    assert [b["concept"] for b in state["safety"]["boxes"]] == [
        CONCEPTS[k] for k in safety.concept_R.tolist()
    ]


@pytest.mark.parametrize("replacement", ["median", "zero"])
def test_the_base_and_the_contributions_sum_to_the_logit_under_edits(client, replacement):
    session = opened(client)["session"]
    state = put(client, session, decisions=DECISIONS, boxes=BOXES, replacement=replacement).json()
    for t, diagnosis in enumerate(state["diagnoses"]):
        total = sum(concept["contribution"][t] for concept in state["concepts"])
        assert total + diagnosis["base"] == pytest.approx(diagnosis["logit"], abs=1e-5)


def test_a_rejected_concept_contributes_exactly_nothing(client):
    first = opened(client)
    state = put(client, first["session"], decisions={CONCEPTS[0]: "rejected"}, replacement="median").json()
    for t, diagnosis in enumerate(state["diagnoses"]):
        gone = first["concepts"][0]["contribution"][t]
        assert diagnosis["logit"] == pytest.approx(first["diagnoses"][t]["logit"] - gone, abs=1e-5)
        assert state["concepts"][0]["contribution"][t] == 0.0


def test_zero_takes_a_rejected_concept_below_its_medians_and_changes_nothing_else(client, model):
    absent = model.card.reference.absent_KM[0].double()
    weight_TM = model.task_head.linear.weight.detach().double().unflatten(1, (K, M))[:, 0]
    first = opened(client)
    state = put(client, first["session"], decisions={CONCEPTS[0]: "rejected"}, replacement="zero").json()
    for t, diagnosis in enumerate(state["diagnoses"]):
        below = -float(weight_TM[t] @ absent)
        assert state["concepts"][0]["contribution"][t] == pytest.approx(below, abs=1e-9)
        moved = below - first["concepts"][0]["contribution"][t]
        assert diagnosis["logit"] == pytest.approx(first["diagnoses"][t]["logit"] + moved, abs=1e-5)
    for k in (1, 2):
        assert state["concepts"][k]["contribution"] == first["concepts"][k]["contribution"]


def test_a_rejected_concept_still_shows_the_map_that_was_rejected(client):
    first = opened(client)
    concept = put(client, first["session"], decisions={CONCEPTS[0]: "rejected"}).json()["concepts"][0]
    for key in ("best_prototype", "peak", "similarity"):
        assert concept[key] == first["concepts"][0][key]
    assert concept["score"] != concept["similarity"], "the median counts"


@pytest.mark.parametrize("replacement", ["median", "zero"])
def test_maps_are_those_after_the_boxes(client, model, output, replacement):
    session = opened(client)["session"]
    absent = model.card.reference.absent_KM if replacement == "median" else None
    for boxes in ([], BOXES):
        put(client, session, boxes=boxes, replacement=replacement)
        edited = edited_maps(output.similarity_maps, edits_of({}, boxes), absent_KM=absent)[0]
        answer = client.get(f"/api/sessions/{session}/maps?of=0.1&of=2.3").json()
        assert [(m["concept"], m["prototype"]) for m in answer["maps"]] == [(0, 1), (2, 3)]
        for one in answer["maps"]:
            expected = edited[one["concept"], one["prototype"]]
            assert (answer["height"], answer["width"]) == expected.shape
            medians = model.card.reference
            place = (one["concept"], one["prototype"])
            assert one["low"] == float(medians.absent_KM[place])
            assert one["high"] == float(medians.present_KM[place])
            assert one["values"] == pytest.approx(expected.flatten().tolist(), abs=5.1e-5)


def test_every_prototype_of_a_concept_is_listed(client, model, stored):
    session = opened(client)["session"]
    e = explain(model, stored)[0]
    for k in range(K):
        answer = client.get(f"/api/sessions/{session}/concepts/{k}").json()
        assert [p["score"] for p in answer["prototypes"]] == e.score_KM[k].tolist()
        assert [p["contribution"] for p in answer["prototypes"]] == e.share_TKM[:, k].T.tolist()
        assert answer["if_rejected"] == e.rejected_TK[:, k].tolist()


def test_dropped_prototypes_are_not_shown_and_a_concept_without_any_has_no_map(stored):
    model = tiny_model()
    dropped = torch.zeros(K, M, dtype=torch.bool)
    dropped[0], dropped[1, 2] = True, True
    model.prototypes.drop_(dropped)
    case = Case(model, stored[0].numpy())
    rejected = Edits(decisions={CONCEPTS[0]: "rejected"}, boxes=[], alpha=0.2, replacement="zero")
    outcome = case.diagnose(rejected)
    concept = result_of(case, outcome).concepts[0]
    assert {concept.best_prototype, concept.score, concept.similarity} == {None} and concept.peak is None
    assert [p.prototype for p in prototypes_of(case, outcome.explanation, 1).prototypes] == [0, 1, 3]


def test_a_number_that_is_not_finite_is_an_error_and_never_null(stored):
    model = tiny_model()
    with torch.no_grad():
        model.task_head.linear.bias[0] = float("nan")
    case = Case(model, stored[0].numpy())
    with pytest.raises(ValueError, match="finite number"):
        result_of(case, case.diagnose(case.unedited))


def test_a_model_without_medians_starts_with_zero_and_refuses_medians(stored):
    model = tiny_model()
    model.card = dataclasses.replace(model.card, reference=Reference())
    assert default_replacement(model) == "zero"
    case = Case(model, stored[0].numpy())
    assert case.diagnose(case.unedited).explanation.rejected_TK is None
    shown = np.concatenate([map_HW.numpy().ravel() for map_HW in case.plain.map_KHW])
    assert case.scale_of(0, 1) == (pytest.approx(float(np.median(shown))), pytest.approx(float(shown.max())))
    with pytest.raises(InputError, match="medians"):
        checked_edits(EditsIn(replacement="median"), CONCEPTS, default="zero")


@pytest.mark.parametrize(("limit", "noted"), [(-1e9, True), (1e9, False)])
def test_an_image_unlike_the_training_images_has_the_note_of_csr_explain(stored, limit, noted):
    model = with_novelty(limit)
    case, explained = Case(model, stored[0].numpy()), explain(model, stored)[0]
    note = result_of(case, case.diagnose(case.unedited)).novelty_note
    assert (note is not None) == noted
    assert explained.seen is not None and note == explained.seen.note
    assert to_dict(explained, neighbours={})["novelty"]["note"] == note


def test_a_model_without_statistics_of_its_training_images_says_so(client):
    assert any("holds no statistics" in line for line in client.get("/api/model").json()["notices"])
