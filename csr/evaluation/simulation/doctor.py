"""A doctor played from labels and boxes, with the edits that the page offers (paper, Sec. 3.3, Eqs. 12-13).

The doctor sees which concepts the model called, and where. Kinds of edits, each played alone:

    rejections         concepts labelled absent that were called present
    confirmations      concepts labelled present that were not called
    concepts           both
    boxes              the boxes of the concepts labelled present: look here
    not here           the highest cell of each concept that was called and is labelled absent, unless that
                       cell lies in a box of a concept that is present
    concepts and boxes all of it but `not here`

What is not annotated stays. Where the model has medians, everything is played twice: with medians, which the
page offers first, and towards 0 as in the paper.

Letters: B batch, K concepts, M prototypes per concept, T targets, H W map, V plays, R boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from csr.data.batch import Batch
from csr.data.labels.positive import is_negative, is_positive
from csr.model.edit_defaults import MODES as MODES
from csr.model.interaction import (
    ALPHA,
    CONFIRMED,
    REJECTED,
    Edits,
    edited_scores,
    make_edits,
)
from csr.model.sharing.card import Card

REJECT, CONFIRM, LOOK_HERE, NOT_HERE = "rejected", "confirmed", "positive", "negative"
KINDS: dict[str, tuple[str, ...]] = {
    "rejections": (REJECT,),
    "confirmations": (CONFIRM,),
    "concepts": (REJECT, CONFIRM),
    "boxes": (LOOK_HERE,),
    "not here": (NOT_HERE,),
    "concepts and boxes": (REJECT, CONFIRM, LOOK_HERE),
}
_OF_MODE = {
    "concept": ("rejections", "confirmations", "concepts"),
    "box": ("boxes", "not here"),
    "both": tuple(KINDS),
}


@dataclass(frozen=True)
class Play:
    """One way of correcting all images.

    Attributes:
        kind: of `KINDS`.
        medians: move rejected concepts and regions that do not count to absent medians, not to 0, and raise
            confirmed concepts to present medians.
    """

    kind: str
    medians: bool

    @property
    def tools(self) -> tuple[str, ...]:
        """What the doctor uses."""
        return KINDS[self.kind]

    @property
    def name(self) -> str:
        """Key of the play in the results, such as `concepts and boxes, zero`."""
        return f"{self.kind}, {'medians' if self.medians else 'zero'}"


def plays_of(mode: str | None, *, has_medians: bool) -> tuple[Play, ...]:
    """Return the plays of a mode, medians first.

    Args:
        mode: one of `MODES`; None: no plays.
        has_medians: of the model.
    """
    if mode is None:
        return ()
    medians = (True, False) if has_medians else (False,)
    # a confirmation does nothing towards 0: in the paper it is agreeing
    return tuple(Play(kind, m) for kind in _OF_MODE[mode] for m in medians if m or KINDS[kind] != (CONFIRM,))


def doctor_edits(
    concept_BK: torch.Tensor,
    called_BK: torch.Tensor,
    batch: Batch,
    *,
    play: Play,
    peak_BK4: torch.Tensor,
    alpha: float = ALPHA,
) -> Edits:
    """Return the doctor's edits of a batch.

    Args:
        concept_BK: labels 0 to 1, NaN where not annotated.
        called_BK: bool, concepts that the model called present.
        batch: with `box` (R, 4), `box_class` and `box_row` (R,) if boxes are played.
        play: the tools to use.
        peak_BK4: see `peak_cells`.
        alpha: importance outside of all boxes.
    """
    wrong_BK = is_negative(concept_BK) & called_BK
    decision_BK = torch.zeros_like(called_BK, dtype=torch.int64)
    if REJECT in play.tools:
        decision_BK[wrong_BK] = REJECTED
    if CONFIRM in play.tools:
        decision_BK[is_positive(concept_BK) & ~called_BK] = CONFIRMED
    if LOOK_HERE not in play.tools and NOT_HERE not in play.tools:
        return make_edits(decision_BK, alpha=alpha)
    keep_R = is_positive(concept_BK[batch["box_row"], batch["box_class"]])
    box_R4, row_R = batch["box"][keep_R], batch["box_row"][keep_R]
    if LOOK_HERE in play.tools:
        return make_edits(decision_BK, box_R4=box_R4, row_R=row_R, alpha=alpha)
    row_P, concept_P = torch.nonzero(wrong_BK & ~peak_BK4.isnan().any(dim=2), as_tuple=True)
    peak_P4 = peak_BK4[row_P, concept_P]
    centre_P12 = ((peak_P4[:, :2] + peak_P4[:, 2:]) / 2).unsqueeze(1)
    inside_PR = ((centre_P12 >= box_R4[:, :2]) & (centre_P12 <= box_R4[:, 2:])).all(dim=2)
    free_P = ~(inside_PR & (row_P.unsqueeze(1) == row_R)).any(dim=1)
    return make_edits(
        decision_BK,
        box_R4=peak_P4[free_P],
        row_R=row_P[free_P],
        positive_R=torch.zeros(int(free_P.sum()), dtype=torch.bool),
        alpha=alpha,
    )


def peak_cells(sim_BKMHW: torch.Tensor, kept_KM: torch.Tensor) -> torch.Tensor:
    """Return the highest cell of each concept's maps, the one that the page frames.

    Args:
        sim_BKMHW: the network's maps.
        kept_KM: bool, prototypes that were not dropped.

    Returns:
        box_BK4, fractions of the image; NaN for a concept whose prototypes were all dropped.
    """
    height, width = sim_BKMHW.shape[-2:]
    map_BKMHW = sim_BKMHW.masked_fill(~kept_KM[..., None, None], -torch.inf)
    at_BK = map_BKMHW.amax(dim=2).flatten(2).argmax(dim=2)
    x_BK, y_BK = at_BK % width, at_BK // width
    box_BK4 = torch.stack(
        [x_BK / width, y_BK / height, (x_BK + 1) / width, (y_BK + 1) / height], dim=2
    ).float()
    return torch.where(kept_KM.any(dim=1)[:, None], box_BK4, torch.nan)


def play_doctor(
    sim_BKMHW: torch.Tensor,
    called_BK: torch.Tensor,
    batch: Batch,
    *,
    plays: tuple[Play, ...],
    card: Card,
    kept_KM: torch.Tensor,
    diagnose: Callable[[torch.Tensor], torch.Tensor],
    alpha: float = ALPHA,
) -> dict[str, torch.Tensor]:
    """Return the diagnoses of a batch after each play.

    Args:
        sim_BKMHW: the network's maps.
        called_BK, batch: see `doctor_edits`; the batch also has `concept`.
        plays: see `plays_of`.
        card: of the model, for the medians.
        kept_KM: bool, prototypes that were not dropped.
        diagnose: score_BKM -> probability_BT.
        alpha: importance outside of all boxes.

    Returns:
        `after` (B, V, T) probabilities, and `edited` (B, V), 1 where an image was corrected.
    """
    after, edited = [], []
    reference, peak_BK4 = card.reference, peak_cells(sim_BKMHW, kept_KM)
    for play in plays:
        edits = doctor_edits(batch["concept"], called_BK, batch, play=play, peak_BK4=peak_BK4, alpha=alpha)
        score_BKM = edited_scores(
            sim_BKMHW,
            edits,
            absent_KM=reference.absent_KM if play.medians else None,
            present_KM=reference.present_KM if play.medians else None,
        )
        after.append(diagnose(score_BKM))
        edited.append((edits.decision_BK != 0).any(dim=1) | edits.has_box_B)
    return {"after": torch.stack(after, dim=1), "edited": torch.stack(edited, dim=1)}
