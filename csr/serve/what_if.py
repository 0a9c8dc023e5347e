"""What would change a diagnosis: the fewest decisions on concepts that carry it over its threshold.

A decision moves each logit by what the concept contributes after it less what it contributes now, whatever is
decided on the others: so every single decision and every pair is known from K x 2 numbers for each diagnosis.
Sets are then diagnosed as the page would, and offered only where they hold to the last bit.

Letters: C candidates (a decision on a concept), P pairs, S sets, K concepts, M prototypes, T targets.
"""

from __future__ import annotations

import torch
from pydantic import Field

from csr.explain.explanation import Explanation
from csr.model.interaction import CONFIRMED, REJECTED, decide
from csr.serve.case import Case, Outcome
from csr.serve.edits import decision_codes
from csr.serve.schemas import Decision, Schema

MAX_SETS = 8  # that are offered
_PAIRED = 400  # candidates that pairs are made of: with more, those that move the diagnosis furthest
_LEAST = 1e-6  # a smaller change of a logit is none
_WORDS: dict[int, Decision] = {REJECTED: "rejected", CONFIRMED: "confirmed"}


class Change(Schema):
    """A decision on a concept."""

    concept: str
    decision: Decision


class WhatIf(Schema):
    """A smallest set of decisions that carries a diagnosis over its threshold, or below it."""

    changes: list[Change]
    probability: float = Field(description="of the diagnosis after them")


class WhatIfs(Schema):
    """The sets for one diagnosis, under the edits in force."""

    target: str
    present: bool = Field(
        description="the model calls it now; after any of the sets it does not, or the reverse"
    )
    sets: list[WhatIf] = Field(description="single decisions, then pairs neither of which does it alone")
    num_single: int = Field(description="sets of one that there are")
    num_pairs: int


@torch.no_grad()
def what_would_change(case: Case, outcome: Outcome, target: int) -> WhatIfs:
    """Return the smallest sets of decisions that change whether a diagnosis is called.

    Args:
        case: of the image.
        outcome: with the edits in force; their regions, and decisions on other concepts, stay.
        target: number of the diagnosis.

    Returns:
        Single decisions that do it, then pairs of which neither does it alone, at most `MAX_SETS`. Within
        both the decisions come first that contradict the model least: those on concepts whose probability is
        nearest to its threshold, or which the model calls as they are decided.
    """
    card, e = case.card, outcome.explanation
    now_K = decision_codes(outcome.edits, card.concept_names)
    candidate_C2 = torch.tensor(
        [(k, code) for k, now in enumerate(now_K) for code in (REJECTED, CONFIRMED) if code != now]
    ).view(-1, 2)
    move_CT = _moves(case, outcome, candidate_C2)
    cost_C = _costs(e, candidate_C2)
    does_C = _called_after(e, move_CT)[:, target] != e.present_T[target]
    single = does_C.nonzero()
    left = (~does_C & (move_CT.abs().amax(1) > _LEAST)).nonzero().flatten()
    left = left[move_CT[left, target].abs().argsort(descending=True, stable=True)[:_PAIRED]]
    pairs = _pairs(e, target, left, candidate_C2, move_CT)
    ordered = [*_cheapest_first(single, cost_C), *_cheapest_first(pairs, cost_C)]
    return WhatIfs(
        target=card.target_names[target],
        present=bool(e.present_T[target]),
        sets=_held(case, outcome, target, ordered, candidate_C2, now_K),
        num_single=len(single),
        num_pairs=len(pairs),
    )


def _moves(case: Case, outcome: Outcome, candidate_C2: torch.Tensor) -> torch.Tensor:
    """Return how far each candidate moves each logit, fp64 (C, T): its contribution less the one now."""
    e, seen_BKM = outcome.explanation, outcome.seen_KM.unsqueeze(0)
    absent_KM, present_KM = case.medians(outcome.edits)
    move_by_code = {}
    for code in (REJECTED, CONFIRMED):
        decision_BK = torch.full(seen_BKM.shape[:2], code, device=seen_BKM.device)
        score_KM = decide(seen_BKM, decision_BK, absent_KM=absent_KM, present_KM=present_KM)[0].cpu()
        move_by_code[code] = (e.weight_TKM * (score_KM.double() - e.score_KM.double())).sum(2)  # (T, K)
    moves = [move_by_code[code][:, k] for k, code in candidate_C2.tolist()]
    return torch.stack(moves) if moves else torch.zeros(0, len(e.logit_T), dtype=torch.float64)


def _costs(e: Explanation, candidate_C2: torch.Tensor) -> torch.Tensor:
    """Return how far each candidate contradicts the model, (C,): 0 where the model says the same."""
    threshold_K = e.card.concept_threshold_K.double()
    far_K = (_logit(e.concept_probability_K.double()) - _logit(threshold_K)).abs()
    concept_C, code_C = candidate_C2.unbind(1)
    agrees_C = e.active_K[concept_C] == (code_C == CONFIRMED)
    return torch.where(agrees_C, torch.zeros_like(far_K[concept_C]), far_K[concept_C])


def _logit(probability: torch.Tensor) -> torch.Tensor:
    return torch.logit(probability, eps=1e-9)


def _called_after(e: Explanation, move_ST: torch.Tensor) -> torch.Tensor:
    """Return which diagnoses are called after sums of moves, bool (S, T)."""
    return e.card.called(e.card.probability((e.logit_T.double() + move_ST).float()))


def _pairs(
    e: Explanation, target: int, left: torch.Tensor, candidate_C2: torch.Tensor, move_CT: torch.Tensor
) -> torch.Tensor:
    """Return the pairs of candidates, none of which does it alone, that do it together, (P, 2)."""
    found = [torch.zeros(0, 2, dtype=torch.int64)]
    for at, first in enumerate(left.tolist()):
        others = left[at + 1 :]
        others = others[candidate_C2[others, 0] != candidate_C2[first, 0]]
        does = _called_after(e, move_CT[first] + move_CT[others])[:, target] != e.present_T[target]
        second = others[does]
        found.append(torch.stack([torch.full_like(second, first), second], dim=1))
    return torch.cat(found)


def _cheapest_first(set_SN: torch.Tensor, cost_C: torch.Tensor) -> list[list[int]]:
    order = cost_C[set_SN].sum(1).argsort(stable=True)
    return set_SN[order].tolist()


def _held(
    case: Case,
    outcome: Outcome,
    target: int,
    sets: list[list[int]],
    candidate_C2: torch.Tensor,
    now_K: list[int],
) -> list[WhatIf]:
    """Return the first sets that the model itself confirms, with the probability that they lead to."""
    card, seen_KM = case.card, outcome.seen_KM
    absent_KM, present_KM = case.medians(outcome.edits)
    first = sets[: 4 * MAX_SETS]
    if not first:
        return []
    decision_SK = torch.tensor(now_K, device=seen_KM.device).repeat(len(first), 1)
    for row, members in enumerate(first):
        for k, code in candidate_C2[members].tolist():
            decision_SK[row, k] = code
    seen_SKM = seen_KM.expand(len(first), *seen_KM.shape)
    score_SKM = decide(seen_SKM, decision_SK, absent_KM=absent_KM, present_KM=present_KM)
    probability_ST = card.probability(case.model.task_head(score_SKM).cpu())
    does_S = card.called(probability_ST)[:, target] != outcome.explanation.present_T[target]
    held = [
        WhatIf(
            changes=[
                Change(concept=card.concept_names[k], decision=_WORDS[code])
                for k, code in candidate_C2[members].tolist()
            ],
            probability=float(probability_ST[row, target]),
        )
        for row, members in enumerate(first)
        if bool(does_S[row])
    ]
    return held[:MAX_SETS]
