"""When a doctor should decide: diagnoses that contradict each other, none at all, or uncertain ones.

Where exactly one diagnosis holds the gap of the two most likely ones decides (paper, Sec. 3.3). Where several
may hold a gap means nothing: two that are both certain have none. There the probability that every decision
is right decides.

Letters: N images, B batch, T targets.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from csr.model.edit_defaults import DOCTOR_GAP
from csr.runtime.errors import InputError

if TYPE_CHECKING:
    from csr.model.sharing.card import Card

SENSITIVITY = 0.8  # of wrong validation images, the share that the limit must flag
MIN_WRONG = 10  # validation images with a wrong diagnosis; with fewer no limit is chosen
ALONE_SHARE = 0.7  # of its training images: several readers of one image do contradict each other
MIN_ALONE = 10  # training images of a target that excludes the others
NO_DOUBT_RULE = (
    f"No rule for asking a doctor was measured (an older run, or fewer than {MIN_WRONG} wrong validation "
    f"images): the two most likely diagnoses differing by less than {DOCTOR_GAP} is used."
)
_EDGE = 1e-6


@dataclass(frozen=True)
class DoubtRule:
    """The rule of one trained model.

    Attributes:
        limit: a margin (see `margins`) below it is a doubt.
        sensitivity: share of the wrong validation images that it flags.
        num_wrong: how many those were.
        exclusive: names of targets that come alone in training images.
    """

    limit: float
    sensitivity: float
    num_wrong: int
    exclusive: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "exclusive": list(self.exclusive)}


def doubt_from_dict(value: Any, *, target_names: tuple[str, ...], where: str) -> DoubtRule:
    """Read what `to_dict` wrote.

    Raises:
        InputError: a key is missing, a number is not finite or below 0, a name is no target's.
    """
    keys = ("limit", "sensitivity", "num_wrong")
    if not isinstance(value, dict) or set(value) != {*keys, "exclusive"}:
        raise InputError(f"{where}: has {', '.join(keys)} and exclusive")
    numbers = [value[key] for key in keys]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < 1e9 for n in numbers):
        raise InputError(f"{where}: {', '.join(keys)} are numbers from 0 on")
    names = value["exclusive"]
    if not isinstance(names, list) or not all(name in target_names for name in names):
        raise InputError(f"{where}: exclusive is a list of targets")
    return DoubtRule(float(numbers[0]), float(numbers[1]), int(numbers[2]), tuple(names))


def top_two_gap(probability_BT: torch.Tensor) -> torch.Tensor:
    """Return the gap of the two most likely diagnoses, (B,); of a single one |2p - 1|, from its absence."""
    if probability_BT.shape[1] == 1:
        return (2 * probability_BT[:, 0] - 1).abs()
    first_BT = probability_BT.topk(2, dim=1).values
    return first_BT[:, 0] - first_BT[:, 1]


def right_probability(probability_BT: torch.Tensor, called_BT: torch.Tensor) -> torch.Tensor:
    """Return the probability that each decision is right, (B, T): of what is called p, else 1 - p."""
    return torch.where(called_BT, probability_BT, 1 - probability_BT).double()


def is_contradiction(called_BT: torch.Tensor, exclusive_T: torch.Tensor) -> torch.Tensor:
    """Return where a diagnosis that excludes the others is called with another one, bool (B,)."""
    return (called_BT & exclusive_T.to(called_BT.device)).any(dim=1) & (called_BT.sum(dim=1) > 1)


def margins(
    probability_BT: torch.Tensor, called_BT: torch.Tensor, *, exclusive_T: torch.Tensor, exactly_one: bool
) -> torch.Tensor:
    """Return how far from a doubt each image is, (B,), fp64, 0 to 1.

    Args:
        probability_BT: calibrated.
        called_BT: which diagnoses are called.
        exclusive_T: of no meaning if exactly one diagnosis holds.
        exactly_one: see `Card.exactly_one`.

    Returns:
        The gap if exactly one diagnosis holds, else the probability that all decisions are right, as if they
        did not depend on each other; 0 for a contradiction, and where none of several is called.
    """
    if exactly_one:
        return top_two_gap(probability_BT).double()
    unclear_B = is_contradiction(called_BT, exclusive_T)
    if called_BT.shape[1] > 1:  # a single one that is not called is an answer
        unclear_B |= ~called_BT.any(dim=1)
    return right_probability(probability_BT, called_BT).prod(dim=1).masked_fill(unclear_B, 0.0)


def exclusive_targets(target_NT: torch.Tensor, concept_NK: torch.Tensor) -> torch.Tensor:
    """Return which targets exclude the others, bool (T,): they come alone in most training images.

    Alone: without another target and without a concept, as "No finding" does.

    Args:
        target_NT, concept_NK: labels of training images, 0 to 1 (positive from 0.5), NaN where not annotated.
    """
    positive_NT = target_NT >= 0.5  # NaN is not
    alone_NT = positive_NT & (positive_NT.sum(dim=1, keepdim=True) == 1)
    alone_NT &= ~(concept_NK >= 0.5).any(dim=1, keepdim=True)
    number_T = positive_NT.sum(dim=0)
    return (alone_NT.sum(dim=0) >= ALONE_SHARE * number_T) & (number_T >= MIN_ALONE)


def choose_limit(margin_N: torch.Tensor, wrong_N: torch.Tensor) -> tuple[float, float] | None:
    """Return the lowest limit that flags `SENSITIVITY` of the wrong images, and the share that it flags.

    Args:
        margin_N: of validation images.
        wrong_N: bool, any diagnosis is wrong.

    Returns:
        None with fewer than `MIN_WRONG` wrong images. The limit lies midway to the next larger margin.
    """
    wrong = margin_N[wrong_N].double().sort().values
    if len(wrong) < MIN_WRONG:
        return None
    last = wrong[math.ceil(SENSITIVITY * len(wrong)) - 1]
    above = margin_N[margin_N > last].double()
    limit = float((last + above.min()) / 2) if len(above) else float(last) + _EDGE
    return limit, float((wrong < limit).double().mean())


def doubts(card: Card, probability_BT: torch.Tensor) -> list[str | None]:
    """Return for each image why a doctor should decide, one line; None where there is no doubt.

    Args:
        card: of the model; without a measured rule the gap of the paper decides.
        probability_BT: of the diagnoses.
    """
    rule, probability_BT = card.reference.doubt, probability_BT.detach().cpu()
    if rule is None or card.exactly_one:
        limit = DOCTOR_GAP if rule is None else rule.limit
        return [_gap_line(gap, limit, len(card.target_names)) for gap in top_two_gap(probability_BT).tolist()]
    called_BT = card.called(probability_BT)
    exclusive_T = torch.tensor([name in rule.exclusive for name in card.target_names])
    clash_B = is_contradiction(called_BT, exclusive_T)
    right_BT = right_probability(probability_BT, called_BT)
    lines: list[str | None] = []
    for b, called_T in enumerate(called_BT):
        names = [card.target_names[t] for t in called_T.nonzero()[:, 0].tolist()]
        t, all_right = int(right_BT[b].argmin()), float(right_BT[b].prod())
        if bool(clash_B[b]):
            lines.append(f"Called together, though they exclude each other: {', '.join(names)}")
        elif not names and len(called_T) > 1:
            lines.append("No diagnosis is called")
        elif all_right < rule.limit:
            near = f"{float(probability_BT[b, t]):.2f}, threshold {float(card.target_threshold_T[t]):.2f}"
            lines.append(f"The diagnoses are uncertain, {card.target_names[t]} most ({near})")
        else:
            lines.append(None)
    return lines


def doubt_sentence(card: Card) -> str:
    """Return the rule that `doubts` follows for a model, as a sentence for those who use it.

    Args:
        card: of the model.
    """
    rule = card.reference.doubt
    limit = DOCTOR_GAP if rule is None else rule.limit
    if rule is None or card.exactly_one:
        where = [f"the two most likely diagnoses differ by less than {limit:.2f}"]
        if len(card.target_names) == 1:  # |2p - 1| below the limit
            low, high = max(0.0, (1 - limit) / 2), min(1.0, (1 + limit) / 2)
            where = [f"the probability of {card.target_names[0]} is between {low:.2f} and {high:.2f}"]
    else:
        where = ["no diagnosis is called"] if len(card.target_names) > 1 else []
        if rule.exclusive and len(card.target_names) > 1:
            where.append(f"another diagnosis is called together with {' or '.join(rule.exclusive)}")
        where.append(
            "the probability that all decisions on diagnoses are right (a product over them) is below "
            f"{limit:.2f}"
        )
    source = "no rule was measured on validation images, this one is the method's"
    if rule is not None:
        flagged = f"{rule.sensitivity:.0%} of the {rule.num_wrong}"
        source = f"chosen on validation images, where it flags {flagged} with a wrong diagnosis"
    return f"Ask a doctor where {', or where '.join(where)}: {source}."


def _gap_line(gap: float, limit: float, num_targets: int) -> str | None:
    if not gap < limit:
        return None
    if num_targets == 1:
        return "The probability is close to even"
    return f"The two most likely diagnoses differ by {gap:.2f}, less than {limit:.2f}"
