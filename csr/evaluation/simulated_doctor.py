"""A doctor played from labels and boxes: what corrections do to diagnoses (paper, Sec. 3.3, Eqs. 12-13).

The doctor sees which concepts the model called. `concept`: rejects a concept that is labelled absent and was
called present, confirms one that is labelled present and was not called; what is not annotated stays.
`box`: draws the boxes of the concepts labelled present as positive regions. `both` does both at once. Where
the model has medians, everything is played twice: towards 0 as in the paper, and towards medians.

Letters: B batch, N images, K concepts, M prototypes per concept, T targets, H W map, V plays, R boxes or
rows of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.labels.positive import is_negative, is_positive
from csr.evaluation.bootstrap import Bootstrap, estimate
from csr.evaluation.label_scores import known
from csr.evaluation.weighted_metrics import ratio
from csr.model.edit_defaults import DOCTOR_GAP
from csr.model.edit_defaults import MODES as MODES
from csr.model.interaction import ALPHA, CONFIRMED, REJECTED, Edits, edited_scores, make_edits
from csr.model.sharing.card import Card


@dataclass(frozen=True)
class Play:
    """One way of correcting all images.

    Attributes:
        concepts: correct the decisions on concepts.
        boxes: draw the boxes.
        medians: move rejected concepts and regions outside of boxes to medians, not to 0, and raise confirmed
            concepts to their medians.
    """

    concepts: bool
    boxes: bool
    medians: bool

    @property
    def name(self) -> str:
        """Key of the play in the results, such as `concepts and boxes, zero`."""
        tools = " and ".join([*["concepts"] * self.concepts, *["boxes"] * self.boxes])
        return f"{tools}, {'medians' if self.medians else 'zero'}"


def plays_of(mode: str | None, *, has_medians: bool) -> tuple[Play, ...]:
    """Return the plays of a mode; of `both` also those of its parts, to compare.

    Args:
        mode: one of `MODES`; None: no plays.
        has_medians: of the model.
    """
    if mode is None:
        return ()
    tools = {"concept": [(True, False)], "box": [(False, True)]}  # concepts, boxes
    tools["both"] = [*tools["concept"], *tools["box"], (True, True)]
    medians = (False, True) if has_medians else (False,)
    return tuple(Play(concepts, boxes, m) for concepts, boxes in tools[mode] for m in medians)


def doctor_edits(
    concept_BK: torch.Tensor, called_BK: torch.Tensor, batch: Batch, *, play: Play, alpha: float = ALPHA
) -> Edits:
    """Return the doctor's edits of a batch.

    Args:
        concept_BK: labels 0 to 1, NaN where not annotated.
        called_BK: bool, concepts that the model called present.
        batch: with `box` (R, 4), `box_class` and `box_row` (R,) if boxes are played.
        play: the tools to use.
        alpha: importance outside of all boxes.
    """
    decision_BK = torch.zeros_like(called_BK, dtype=torch.int64)
    if play.concepts:
        decision_BK[is_negative(concept_BK) & called_BK] = REJECTED
        decision_BK[is_positive(concept_BK) & ~called_BK] = CONFIRMED
    if not play.boxes:
        return make_edits(decision_BK, alpha=alpha)
    keep_R = is_positive(concept_BK[batch["box_row"], batch["box_class"]])
    return make_edits(decision_BK, box_R4=batch["box"][keep_R], row_R=batch["box_row"][keep_R], alpha=alpha)


def play_doctor(
    sim_BKMHW: torch.Tensor,
    called_BK: torch.Tensor,
    batch: Batch,
    *,
    plays: tuple[Play, ...],
    card: Card,
    diagnose: Callable[[torch.Tensor], torch.Tensor],
    alpha: float = ALPHA,
) -> dict[str, torch.Tensor]:
    """Return the diagnoses of a batch after each play.

    Args:
        sim_BKMHW: the network's maps.
        called_BK, batch: see `doctor_edits`; the batch also has `concept`.
        plays: see `plays_of`.
        card: of the model, for the medians.
        diagnose: score_BKM -> probability_BT.
        alpha: importance outside of all boxes.

    Returns:
        `after` (B, V, T) probabilities, and `edited` (B, V), 1 where an image was corrected.
    """
    after, edited = [], []
    reference = card.reference
    for play in plays:
        edits = doctor_edits(batch["concept"], called_BK, batch, play=play, alpha=alpha)
        score_BKM = edited_scores(
            sim_BKMHW,
            edits,
            absent_KM=reference.absent_KM if play.medians else None,
            present_KM=reference.present_KM if play.medians else None,
        )
        after.append(diagnose(score_BKM))
        edited.append((edits.decision_BK != 0).any(dim=1) | edits.has_box_B)
    return {"after": torch.stack(after, dim=1), "edited": torch.stack(edited, dim=1)}


class _NetMeasure:
    """Fixed minus broken decisions, as a share of all decisions, for weights: weight_RN -> (R,)."""

    def __init__(self, gain_NT: np.ndarray, known_NT: np.ndarray) -> None:
        self._gain_N = np.where(known_NT, gain_NT, 0).sum(axis=1).astype(np.float64)
        self._count_N = known_NT.sum(axis=1).astype(np.float64)

    def __call__(self, weight_RN: np.ndarray) -> np.ndarray:
        return ratio(weight_RN @ self._gain_N, weight_RN @ self._count_N)


def count_changes(
    before_NT: np.ndarray,
    after_NT: np.ndarray,
    target_NT: np.ndarray,
    edited_N: np.ndarray,
    *,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Count the diagnoses that were fixed and those that were broken. Collective.

    Args:
        before_NT, after_NT: bool, called before and after the corrections.
        target_NT: labels, NaN where not annotated.
        edited_N: bool, images that were corrected.
        bootstrap: of the interval around the net share.

    Returns:
        `images`, `edited` images, `decisions` (annotated image-target pairs), `right_before`, `right_after`,
        `fixed` (wrong, then right), `broken` (right, then wrong), `net` {value, low, high}: (fixed - broken)
        / decisions; and of images whose decisions are all right: `images_right_before`, `_after`,
        `images_fixed`, `images_broken`.
    """
    known_NT = ~np.isnan(target_NT)
    truth_NT = is_positive(target_NT)
    right_before, right_after = (before_NT == truth_NT), (after_NT == truth_NT)
    gain_NT = right_after.astype(np.int64) - right_before
    counted_N = known_NT.any(axis=1)
    all_before, all_after = (((r | ~known_NT).all(axis=1) & counted_N) for r in (right_before, right_after))
    net: dict[str, float | None] = {"value": None, "low": None, "high": None}
    if len(known_NT):
        measured = estimate(_NetMeasure(gain_NT, known_NT), num_images=len(known_NT), bootstrap=bootstrap)
        net = {key: known(getattr(measured, key)) for key in net}
    return {
        "images": int(counted_N.sum()),
        "edited": int((edited_N & counted_N).sum()),
        "decisions": int(known_NT.sum()),
        "right_before": int((right_before & known_NT).sum()),
        "right_after": int((right_after & known_NT).sum()),
        "fixed": int(((gain_NT > 0) & known_NT).sum()),
        "broken": int(((gain_NT < 0) & known_NT).sum()),
        "net": net,
        "images_right_before": int(all_before.sum()),
        "images_right_after": int(all_after.sum()),
        "images_fixed": int((~all_before & all_after & counted_N).sum()),
        "images_broken": int((all_before & ~all_after).sum()),
    }


def score_plays(
    before_NT: np.ndarray,
    after_NVT: np.ndarray,
    target_NT: np.ndarray,
    *,
    edited_NV: np.ndarray,
    gap_N: np.ndarray,
    plays: tuple[Play, ...],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return `count_changes` of every play over all images and over the doubtful ones. Collective.

    Args:
        before_NT, after_NVT: bool, called before and after each play.
        target_NT: labels 0 to 1, NaN where not annotated.
        edited_NV: bool, images that each play corrected.
        gap_N: of the two most likely diagnoses before, see `csr.model.edit_safety.top_two_gap`.
        plays: the V plays.
        bootstrap: of the intervals.

    Returns:
        play's name -> {`all`: .., `doubtful`: ..}; doubtful images have a gap under `DOCTOR_GAP`.
    """
    subsets = {"all": np.ones(len(gap_N), dtype=bool), "doubtful": gap_N < DOCTOR_GAP}
    return {
        play.name: {
            subset: count_changes(
                before_NT[some_N],
                after_NVT[some_N, v],
                target_NT[some_N],
                edited_NV[some_N, v],
                bootstrap=bootstrap,
            )
            for subset, some_N in subsets.items()
        }
        for v, play in enumerate(plays)
    }
