"""What a doctor may do to a diagnosis: edits of similarities, pure and batched (paper, Sec. 3.3, Eqs. 12-13).

Everything starts again from the maps that the network computed once, so undoing an edit is leaving it out:
`edited_scores(sim, no_edits(..))` are the unedited scores to the last bit.

Letters: B batch, K concepts, M prototypes per concept, T targets, H W feature map, R boxes of the batch,
N maps of some concepts. Boxes are x_min, y_min, x_max, y_max as fractions of the image; `row_R` is each one's
place in the batch, `concept_R` the one concept that it is tied to, if any.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from csr.model.edit_defaults import ALPHA as ALPHA

REJECTED, UNTOUCHED, CONFIRMED = -1, 0, 1
ALL_CONCEPTS = -1


@dataclass(frozen=True, eq=False)
class Edits:
    """Edits of a batch of images, each its own; an image without any keeps its scores.

    Attributes:
        decision_BK: int64, `REJECTED`, `UNTOUCHED` or `CONFIRMED`.
        box_R4: float, fractions of the image.
        row_R: int64, the image of each box.
        positive_R: bool, look here (True) or not here (False).
        concept_R: int64, the concept whose maps a box changes, `ALL_CONCEPTS` for every one.
        alpha_B: importance outside of all boxes where one of them is positive, 0 to 1.
    """

    decision_BK: torch.Tensor
    box_R4: torch.Tensor
    row_R: torch.Tensor
    positive_R: torch.Tensor
    concept_R: torch.Tensor
    alpha_B: torch.Tensor

    @property
    def has_box_B(self) -> torch.Tensor:
        """Whether an image has any box."""
        return self.has_box_BK.any(dim=1)

    @property
    def has_box_BK(self) -> torch.Tensor:
        """Whether any box changes a concept's maps."""
        count_BK = torch.zeros_like(self.decision_BK)
        for_all_R = self.concept_R == ALL_CONCEPTS
        count_BK.index_add_(
            0, self.row_R[for_all_R], count_BK.new_ones(int(for_all_R.sum()), count_BK.shape[1])
        )
        tied = (self.row_R[~for_all_R], self.concept_R[~for_all_R])
        count_BK.index_put_(tied, count_BK.new_ones(()), accumulate=True)
        return count_BK > 0


def no_edits(batch: int, num_concepts: int, *, device: torch.device | str = "cpu") -> Edits:
    """Return edits that change nothing: where every session starts, and what a reset restores."""
    return make_edits(torch.zeros(batch, num_concepts, dtype=torch.int64, device=device))


def make_edits(
    decision_BK: torch.Tensor,
    *,
    box_R4: torch.Tensor | None = None,
    row_R: torch.Tensor | None = None,
    positive_R: torch.Tensor | None = None,
    concept_R: torch.Tensor | None = None,
    alpha: float | torch.Tensor = ALPHA,
) -> Edits:
    """Check edits and put them on one device.

    Args:
        decision_BK: -1 rejected, 0 untouched, 1 confirmed.
        box_R4: fractions of the image, x_min, y_min, x_max, y_max; None: no boxes.
        row_R: image of each box; may be left out if B is 1.
        positive_R: bool; None: all positive.
        concept_R: the concept that a box is tied to, `ALL_CONCEPTS` for none; None: no box is tied.
        alpha: importance outside of all boxes, for all images or (B,).

    Raises:
        ValueError: a decision, box, row, concept or alpha that means nothing.
    """
    batch, device = len(decision_BK), decision_BK.device
    if not torch.isin(decision_BK, torch.tensor([-1, 0, 1], device=device)).all():
        raise ValueError("decisions on concepts are -1 (rejected), 0 (untouched) or 1 (confirmed)")
    box = torch.zeros(0, 4) if box_R4 is None else torch.as_tensor(box_R4, dtype=torch.float32).view(-1, 4)
    if row_R is None and len(box) and batch != 1:
        raise ValueError("boxes on a batch need row_R: the image that each one is on")
    row = torch.zeros(len(box), dtype=torch.int64) if row_R is None else torch.as_tensor(row_R).long()
    positive = torch.ones(len(box)) > 0 if positive_R is None else torch.as_tensor(positive_R).bool()
    concept = (
        torch.full((len(box),), ALL_CONCEPTS) if concept_R is None else torch.as_tensor(concept_R).long()
    )
    alpha_B = torch.as_tensor(alpha, dtype=torch.float32).expand(batch)
    _check_boxes(box, row, positive, batch)
    _check_concepts(concept, len(box), num_concepts=decision_BK.shape[1])
    if not ((alpha_B >= 0) & (alpha_B <= 1)).all():
        raise ValueError("alpha is an importance from 0 to 1")
    on_device = (t.to(device) for t in (box, row, positive, concept, alpha_B.contiguous()))
    return Edits(decision_BK.long(), *on_device)


def _check_concepts(concept_R: torch.Tensor, num_boxes: int, *, num_concepts: int) -> None:
    if len(concept_R) != num_boxes:
        raise ValueError("box_R4 and concept_R have an entry for every box")
    if not ((concept_R >= ALL_CONCEPTS) & (concept_R < num_concepts)).all():
        raise ValueError(f"concept_R names concepts 0 to {num_concepts - 1}, or {ALL_CONCEPTS} for all")


def _check_boxes(box_R4: torch.Tensor, row_R: torch.Tensor, positive_R: torch.Tensor, batch: int) -> None:
    if not len(box_R4) == len(row_R) == len(positive_R):
        raise ValueError("box_R4, row_R and positive_R have an entry for every box")
    if not ((row_R >= 0) & (row_R < batch)).all():
        raise ValueError(f"row_R names images 0 to {batch - 1}")
    inside = (box_R4 >= 0) & (box_R4 <= 1)  # NaN is neither
    if not inside.all() or not (box_R4[:, 2:] > box_R4[:, :2]).all():
        raise ValueError("boxes are x_min, y_min, x_max, y_max, fractions of the image, smaller value first")


def importance_map(edits: Edits, *, height: int, width: int) -> torch.Tensor:
    """Return A of Eq. 12: 1 in positive boxes, 0 in negative ones, alpha elsewhere; 1 without a box.

    Alpha holds once a positive box says where to look. Negative boxes alone leave the rest at 1: with alpha
    there, ruling out one cell of a phantom's map broke 46 right diagnoses and fixed 26, without it 5 and 7.

    For a concept the boxes tied to it count, and those tied to none. A cell is in a box if its centre is,
    and every box has at least one cell. Where a positive and a negative box overlap the negative one wins:
    what a doctor ruled out stays out, in whatever order it was drawn.

    Returns:
        importance_BKHW, float32.
    """
    batch, num_concepts = edits.decision_BK.shape
    inside_RHW = box_cells(edits.box_R4, height=height, width=width).to(edits.alpha_B)
    sign_R, for_all_R = (~edits.positive_R).long(), edits.concept_R == ALL_CONCEPTS
    count_BSHW = inside_RHW.new_zeros(batch, 2, height, width)
    place_R = (edits.row_R[for_all_R], sign_R[for_all_R])
    count_BSHW.index_put_(place_R, inside_RHW[for_all_R], accumulate=True)
    count_BKSHW = count_BSHW.unsqueeze(1).repeat(1, num_concepts, 1, 1, 1)
    tied_R = (edits.row_R[~for_all_R], edits.concept_R[~for_all_R], sign_R[~for_all_R])
    count_BKSHW.index_put_(tied_R, inside_RHW[~for_all_R], accumulate=True)
    positive_BKHW, negative_BKHW = (count_BKSHW > 0).unbind(2)
    looks_BK = positive_BKHW.flatten(2).any(dim=2)
    outside_BK = torch.where(
        looks_BK, edits.alpha_B.unsqueeze(1), torch.ones_like(edits.alpha_B).unsqueeze(1)
    )
    importance_BKHW = outside_BK[..., None, None].expand(positive_BKHW.shape).clone()
    importance_BKHW.masked_fill_(positive_BKHW, 1.0)
    return importance_BKHW.masked_fill_(negative_BKHW, 0.0)


def box_cells(box_R4: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Mark cells whose centre is in a box; across too thin a box, the cells that its middle is in.

    Returns:
        bool (R, H, W), at least one cell for every box.
    """
    inside = []
    for low_R, high_R, num in ((box_R4[:, 1], box_R4[:, 3], height), (box_R4[:, 0], box_R4[:, 2], width)):
        centre_L = (torch.arange(num, device=box_R4.device) + 0.5) / num
        inside_RL = (centre_L >= low_R.unsqueeze(1)) & (centre_L <= high_R.unsqueeze(1))
        middle_R1 = ((low_R + high_R) / 2 * num).long().clamp(0, num - 1).unsqueeze(1)
        middle_RL = torch.zeros_like(inside_RL).scatter_(1, middle_R1, True)
        inside.append(torch.where(inside_RL.any(1, keepdim=True), inside_RL, middle_RL))
    return inside[0].unsqueeze(2) & inside[1].unsqueeze(1)


def edited_maps(
    sim_BKMHW: torch.Tensor,
    edits: Edits,
    *,
    absent_KM: torch.Tensor | None = None,
    concept_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weight maps by importance where a box changes them; the others keep their values as they are.

    Args:
        sim_BKMHW: the network's maps, unedited.
        edits: of these images.
        absent_KM: None: Eq. 12, max(similarity, 0) x A. A cosine of 0 is far from what the head saw, though,
            and that breaks more diagnoses than it fixes. Medians over training images without the concept:
            what a similarity exceeds them by is multiplied by A, what lies below them stays, so that a region
            that does not count looks as one without the concept does.
        concept_N: the concepts that the maps and medians given are of, for some maps only (then N is in the
            place of K); None: all.

    Returns:
        sim_BKMHW, of the edited batch.
    """
    height, width = sim_BKMHW.shape[-2:]
    importance_BKHW = importance_map(edits, height=height, width=width).to(sim_BKMHW)
    has_box_BK = edits.has_box_BK
    if concept_N is not None:
        importance_BKHW, has_box_BK = importance_BKHW[:, concept_N], has_box_BK[:, concept_N]
    importance_BK1HW = importance_BKHW.unsqueeze(2)
    if absent_KM is None:
        weighted = sim_BKMHW.clamp_min(0) * importance_BK1HW
    else:
        usual = absent_KM.to(sim_BKMHW)[..., None, None]
        weighted = torch.minimum(sim_BKMHW, usual + importance_BK1HW * (sim_BKMHW - usual))
    return torch.where(has_box_BK[..., None, None, None], weighted, sim_BKMHW)


def edited_scores(
    sim_BKMHW: torch.Tensor,
    edits: Edits,
    *,
    absent_KM: torch.Tensor | None = None,
    present_KM: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return scores after the boxes (Eq. 13: maxima taken again), then the decisions on concepts.

    Args:
        sim_BKMHW: the network's maps, unedited.
        edits: of these images.
        absent_KM: see `edited_maps` and `decide`.
        present_KM: see `decide`.

    Returns:
        score_BKM.
    """
    score_BKM = edited_maps(sim_BKMHW, edits, absent_KM=absent_KM).amax(dim=(3, 4))
    return decide(score_BKM, edits.decision_BK, absent_KM=absent_KM, present_KM=present_KM)


def decide(
    score_BKM: torch.Tensor,
    decision_BK: torch.Tensor,
    *,
    absent_KM: torch.Tensor | None = None,
    present_KM: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return scores with concepts rejected or confirmed (Sec. 3.3).

    Args:
        score_BKM: similarity scores.
        decision_BK: -1, 0 or 1.
        absent_KM: what a rejected concept's scores become: its medians over training images without it.
            None: 0, as in the paper; a cosine of 0 is far from what the head saw, and can harm more.
        present_KM: what a confirmed concept's scores are raised to where they are lower: its medians over
            training images with it. None: they stay, confirming is agreeing.

    Returns:
        score_BKM, new.
    """
    absent = torch.zeros_like(score_BKM) if absent_KM is None else absent_KM.to(score_BKM)
    rejected, confirmed = decision_BK == REJECTED, decision_BK == CONFIRMED
    edited_BKM = torch.where(rejected.unsqueeze(2), absent, score_BKM)
    if present_KM is None:
        return edited_BKM
    raised_BKM = torch.maximum(score_BKM, present_KM.to(score_BKM))
    return torch.where(confirmed.unsqueeze(2), raised_BKM, edited_BKM)
