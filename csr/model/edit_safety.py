"""How far a doctor's edits move the diagnosis, and whether the boxes agree with what the network saw.

Letters: B batch, K concepts, M prototypes per concept, T targets, H W feature map, R boxes of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from csr.model.doubt import top_two_gap as top_two_gap
from csr.model.edit_defaults import DOCTOR_GAP as DOCTOR_GAP
from csr.model.interaction import Edits, box_cells, edited_scores
from csr.model.sharing.reference import DEFAULT_THRESHOLD

HIGH_SHARE = 0.8  # of an image's highest similarity: above, a map counts as high


@dataclass(frozen=True, eq=False)
class SafetyReport:
    """What edits do to the diagnoses, and what the network saw in the boxes.

    Attributes:
        before_BT, after_BT: probabilities of the diagnoses.
        moved_B: the largest change of a probability, 0 to 1.
        flips_B: whether another diagnosis is the most likely one now (with T = 1: crosses 0.5).
        peak_R: highest unedited similarity in each box, over all prototypes.
        concept_R, prototype_R: whose map that is.
        is_high_R: whether any map is high in the box.
        contradicts_R: a positive box in which no map is high, or a negative box in which one is.
        warn_B: whether the diagnosis moves far on the strength of a box that contradicts the maps.
    """

    before_BT: torch.Tensor
    after_BT: torch.Tensor
    moved_B: torch.Tensor
    flips_B: torch.Tensor
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
        max_move: change of a probability that counts as far.
    """
    before_BT = diagnose(sim_BKMHW.amax(dim=(3, 4)))
    after_BT = diagnose(edited_scores(sim_BKMHW, edits, absent_KM=absent_KM, present_KM=present_KM))
    moved_B = (after_BT - before_BT).abs().amax(dim=1)
    peak_RKM = _peaks(sim_BKMHW, edits)
    peak_R, at_R = peak_RKM.flatten(1).max(dim=1)
    if high_KM is None:
        high_B = HIGH_SHARE * sim_BKMHW.flatten(1).amax(dim=1)
        is_high_R = (peak_R >= high_B[edits.row_R]) & (peak_R > 0)
    else:
        # a dropped prototype is 0 all over: that is not high, whatever its threshold
        is_high_R = ((peak_RKM >= high_KM.to(peak_RKM)) & (peak_RKM > 0)).flatten(1).any(dim=1)
    contradicts_R = is_high_R != edits.positive_R
    contradicted_B = torch.zeros_like(moved_B).index_add_(0, edits.row_R, contradicts_R.to(moved_B)) > 0
    num_per_concept = sim_BKMHW.shape[2]
    return SafetyReport(
        before_BT=before_BT,
        after_BT=after_BT,
        moved_B=moved_B,
        flips_B=_verdict(before_BT) != _verdict(after_BT),
        peak_R=peak_R,
        concept_R=at_R // num_per_concept,
        prototype_R=at_R % num_per_concept,
        is_high_R=is_high_R,
        contradicts_R=contradicts_R,
        warn_B=(moved_B > max_move) & contradicted_B,
    )


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
