"""How far a doctor's edits move the diagnosis, and whether the boxes agree with what the network saw.

Letters: B batch, K concepts, M prototypes per concept, T targets, H W feature map, R boxes of the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from csr.model.doubt import top_two_gap as top_two_gap
from csr.model.edit_defaults import DOCTOR_GAP as DOCTOR_GAP
from csr.model.interaction import ALL_CONCEPTS, CONFIRMED, REJECTED, Edits, box_cells, edited_scores
from csr.model.sharing.reference import DEFAULT_THRESHOLD

HIGH_SHARE = 0.8  # of an image's highest similarity: above, a map counts as high


@dataclass(frozen=True, eq=False)
class SafetyReport:
    """What edits do to the diagnoses, and what the network saw in the boxes.

    Attributes:
        before_BT, after_BT: probabilities of the diagnoses.
        moved_B: the largest change of a probability, 0 to 1.
        flips_B: whether another diagnosis is the most likely one now (with T = 1: crosses 0.5).
        regions_B: the largest change by the regions alone, beside the same decisions without regions.
        box_moved_R: the largest change if a box alone is left out.
        peak_R: highest unedited similarity in each box, over the maps that count.
        concept_R, prototype_R: whose map that is.
        is_high_R: whether any map that counts is high in the box.
        contradicts_R: a positive box in which no map is high, or a negative box in which one is.
        warn_B: whether the regions move a probability far.
    """

    before_BT: torch.Tensor
    after_BT: torch.Tensor
    moved_B: torch.Tensor
    flips_B: torch.Tensor
    regions_B: torch.Tensor
    box_moved_R: torch.Tensor
    peak_R: torch.Tensor
    concept_R: torch.Tensor
    prototype_R: torch.Tensor
    is_high_R: torch.Tensor
    contradicts_R: torch.Tensor
    warn_B: torch.Tensor


def check_safety(
    sim_BKMHW: torch.Tensor,
    edits: Edits,
    *,
    diagnose: Callable[[torch.Tensor], torch.Tensor],
    absent_KM: torch.Tensor | None = None,
    present_KM: torch.Tensor | None = None,
    high_KM: torch.Tensor | None = None,
    called_BK: torch.Tensor | None = None,
    max_move: float = DOCTOR_GAP,
) -> SafetyReport:
    """Report how far edits would move the diagnosis, and whether the boxes agree with the evidence.

    Args:
        sim_BKMHW: the network's maps, unedited.
        edits: of these images.
        diagnose: score_BKM -> probability_BT, the task head and its sigmoid or softmax.
        absent_KM, present_KM: see `edited_scores`.
        high_KM: similarity from which a prototype's map is high; None: `HIGH_SHARE` of the highest
            similarity anywhere in the image.
        called_BK: bool, concepts that the model calls. Their maps count and those of confirmed concepts, but
            none of a rejected one: a region that leaves out what was rejected agrees. None: all count. In a
            box that is tied to a concept the maps of this one alone count, called or not.
        max_move: change of a probability that counts as far.
    """

    def after(some: Edits) -> torch.Tensor:
        return diagnose(edited_scores(sim_BKMHW, some, absent_KM=absent_KM, present_KM=present_KM))

    before_BT, after_BT = diagnose(sim_BKMHW.amax(dim=(3, 4))), after(edits)
    everything_R = torch.ones_like(edits.positive_R)
    regions_B = (after_BT - after(_without(edits, everything_R))).abs().amax(dim=1)
    box_moved_R = regions_B.new_zeros(len(edits.row_R))
    for r, row in enumerate(edits.row_R.tolist()):
        only_R = torch.zeros_like(everything_R)
        only_R[r] = True
        box_moved_R[r] = (after_BT - after(_without(edits, only_R)))[row].abs().max()
    peak_R, at_R, is_high_R = _evidence(sim_BKMHW, edits, high_KM=high_KM, called_BK=called_BK)
    num_per_concept = sim_BKMHW.shape[2]
    return SafetyReport(
        before_BT=before_BT,
        after_BT=after_BT,
        moved_B=(after_BT - before_BT).abs().amax(dim=1),
        flips_B=_verdict(before_BT) != _verdict(after_BT),
        regions_B=regions_B,
        box_moved_R=box_moved_R,
        peak_R=peak_R,
        concept_R=at_R // num_per_concept,
        prototype_R=at_R % num_per_concept,
        is_high_R=is_high_R,
        contradicts_R=is_high_R != edits.positive_R,
        warn_B=regions_B > max_move,
    )


def _without(edits: Edits, left_out_R: torch.Tensor) -> Edits:
    keep_R = ~left_out_R
    boxes = {name: getattr(edits, name)[keep_R] for name in ("box_R4", "row_R", "positive_R", "concept_R")}
    return dataclasses.replace(edits, **boxes)


def _evidence(
    sim_BKMHW: torch.Tensor, edits: Edits, *, high_KM: torch.Tensor | None, called_BK: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return peak_R, its flat place among (K, M), and is_high_R; of the maps that count."""
    decision_BK = edits.decision_BK
    called_BK = torch.ones_like(decision_BK) > 0 if called_BK is None else called_BK.to(decision_BK.device)
    counts_BK = (called_BK | (decision_BK == CONFIRMED)) & (decision_BK != REJECTED)
    # where no map counts the highest of all is named, and none is high
    shown_BK = counts_BK | ~counts_BK.any(dim=1, keepdim=True)
    is_tied_R1 = (edits.concept_R != ALL_CONCEPTS).unsqueeze(1)
    own_RK = edits.concept_R.unsqueeze(1) == torch.arange(counts_BK.shape[1], device=counts_BK.device)
    is_kept_RK = (decision_BK != REJECTED)[edits.row_R]
    counts_RK = torch.where(is_tied_R1, own_RK & is_kept_RK, counts_BK[edits.row_R])
    shown_RK = torch.where(is_tied_R1, own_RK, shown_BK[edits.row_R])
    peak_RKM = _peaks(sim_BKMHW, edits).masked_fill(~shown_RK.unsqueeze(2), -torch.inf)
    peak_R, at_R = peak_RKM.flatten(1).max(dim=1)
    if high_KM is None:
        top_BK = sim_BKMHW.flatten(2).amax(dim=2).masked_fill(~shown_BK, -torch.inf)
        high_B = HIGH_SHARE * top_BK.amax(dim=1)
        is_high_R = (peak_R >= high_B[edits.row_R]) & (peak_R > 0)
    else:
        # a dropped prototype is 0 all over: that is not high, whatever its threshold
        is_high_R = ((peak_RKM >= high_KM.to(peak_RKM)) & (peak_RKM > 0)).flatten(1).any(dim=1)
    return peak_R, at_R, is_high_R & counts_RK.any(dim=1)


def _peaks(sim_BKMHW: torch.Tensor, edits: Edits) -> torch.Tensor:
    """Return the highest similarity of every map inside every box, (R, K, M)."""
    height, width = sim_BKMHW.shape[-2:]
    inside_RHW = box_cells(edits.box_R4, height=height, width=width)
    peaks = [  # box by box: R x K x M x H x W at once would be large with a hundred prototypes
        sim_BKMHW[row][:, :, inside_HW].amax(dim=2)
        for row, inside_HW in zip(edits.row_R.tolist(), inside_RHW, strict=True)
    ]
    return torch.stack(peaks) if peaks else sim_BKMHW.new_zeros(0, *sim_BKMHW.shape[1:3])


def _verdict(probability_BT: torch.Tensor) -> torch.Tensor:
    if probability_BT.shape[1] == 1:
        return (probability_BT[:, 0] >= DEFAULT_THRESHOLD).long()
    return probability_BT.argmax(dim=1)
