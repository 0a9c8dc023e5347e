"""What would change a diagnosis: the same sets as trying every one of them, diagnosed as the page would."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from serving import box, opened, png, put
from tiny_model import CONCEPTS, TARGETS, K, T, tiny_model

from csr.serve import what_if
from csr.serve.case import Case
from csr.serve.schemas import Box, Edits
from csr.serve.what_if import what_would_change

EDITS = [
    Edits(decisions={}, boxes=[], alpha=0.2, replacement="median"),
    Edits(decisions={CONCEPTS[1]: "confirmed"}, boxes=[], alpha=0.2, replacement="zero"),
    Edits(
        decisions={CONCEPTS[0]: "rejected"},
        boxes=[Box(**box("negative", 0.2, 0.1, 0.7, 0.6))],
        alpha=0.2,
        replacement="median",
    ),
]


def make_case(seed, *, task_loss="bce"):
    model = tiny_model(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 72, 72), dtype=np.uint8)
    model.card = dataclasses.replace(model.card, task_loss=task_loss)
    plain = Case(model, pixels).plain
    # thresholds near the image's own probabilities, so that few decisions are enough
    near_T = (plain.probability_T + torch.tensor([0.06, -0.06])).clamp(0.02, 0.98)
    reference = dataclasses.replace(model.card.reference, target_threshold_T=near_T)
    model.card = dataclasses.replace(model.card, reference=reference)
    return Case(model, pixels)


def brute_force(case, edits, target):
    """Every set of one or two decisions, each diagnosed anew; pairs count where neither does it alone."""
    present = bool(case.diagnose(edits).explanation.present_T[target])
    single = [(k, d) for k in CONCEPTS for d in ("rejected", "confirmed") if edits.decisions.get(k) != d]

    def does(changes):
        decisions = {**edits.decisions, **dict(changes)}
        ordered = {name: decisions[name] for name in CONCEPTS if name in decisions}
        after = case.diagnose(edits.model_copy(update={"decisions": ordered})).explanation
        return bool(after.present_T[target]) != present, float(after.probability_T[target])

    alone = {one: does([one]) for one in single}
    found = {frozenset([one]): p for one, (changes, p) in alone.items() if changes}
    for first, second in itertools.combinations([one for one in single if not alone[one][0]], 2):
        if first[0] != second[0]:
            changes, p = does([first, second])
            if changes:
                found[frozenset([first, second])] = p
    return found


@pytest.mark.parametrize("task_loss", ["bce", "ce"])
@pytest.mark.parametrize("edits", EDITS, ids=["none", "zero", "a region"])
def test_the_sets_are_those_that_trying_all_of_them_finds(edits, task_loss, monkeypatch):
    monkeypatch.setattr(what_if, "MAX_SETS", 10_000)
    num = 0
    for seed, target in itertools.product(range(4), range(T)):
        case = make_case(seed, task_loss=task_loss)
        answer = what_would_change(case, case.diagnose(edits), target)
        sets = {
            frozenset((c.concept, c.decision) for c in one.changes): one.probability for one in answer.sets
        }
        expected = brute_force(case, edits, target)
        assert sets == pytest.approx(expected, abs=1e-6)
        assert len(sets) == len(answer.sets) == answer.num_single + answer.num_pairs
        assert [len(one.changes) for one in answer.sets] == sorted(len(one.changes) for one in answer.sets)
        num += len(sets)
    assert num > 0, "nothing was compared"


def test_what_contradicts_the_model_least_comes_first():
    case = make_case(1)
    e = case.plain
    cost = {}
    for k, name in enumerate(CONCEPTS):
        p, threshold = float(e.concept_probability_K[k]), float(e.card.concept_threshold_K[k])
        far = abs(np.log(p / (1 - p)) - np.log(threshold / (1 - threshold)))
        called = bool(e.active_K[k])
        cost[name, "confirmed"], cost[name, "rejected"] = (0.0 if called else far), (far if called else 0.0)
    for target in range(T):
        sets = what_would_change(case, case.diagnose(case.unedited), target).sets
        for size in (1, 2):
            costs = [
                sum(cost[c.concept, c.decision] for c in s.changes) for s in sets if len(s.changes) == size
            ]
            assert costs == pytest.approx(sorted(costs), abs=1e-5)


def test_a_set_that_is_offered_does_what_it_says_when_it_is_applied(client):
    num = 0
    for seed, (t, name) in itertools.product(range(8), enumerate(TARGETS)):
        first = opened(client, png(seed=seed))
        answer = client.get(f"/api/sessions/{first['session']}/what_if/{t}").json()
        assert answer["target"] == name and answer["present"] == first["diagnoses"][t]["present"]
        for one in answer["sets"]:
            decisions = {change["concept"]: change["decision"] for change in one["changes"]}
            after = put(client, first["session"], decisions=decisions).json()
            assert after["diagnoses"][t]["present"] != answer["present"]
            assert after["diagnoses"][t]["probability"] == pytest.approx(one["probability"], abs=1e-6)
            num += 1
        client.post(f"/api/sessions/{first['session']}/reset")
    assert num > 0


def test_no_more_sets_are_sent_than_a_page_shows():
    num_sets = []
    for seed, target in itertools.product(range(8), range(T)):
        case = make_case(seed)
        answer = what_would_change(case, case.diagnose(case.unedited), target)
        assert len(answer.sets) == min(what_if.MAX_SETS, answer.num_single + answer.num_pairs)
        num_sets.append(answer.num_single + answer.num_pairs)
    assert 0 < max(num_sets) <= 2 * K + 2 * K * (K - 1)


@pytest.mark.parametrize("target", ["-1", "2", "x"])
def test_a_diagnosis_that_is_none_is_refused(client, target):
    session = opened(client)["session"]
    assert client.get(f"/api/sessions/{session}/what_if/{target}").status_code in (404, 422)
    assert client.get(f"/api/sessions/{session}").status_code == 200
