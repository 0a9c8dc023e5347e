"""What a doctor may do to a diagnosis: edits of similarities, pure and batched (paper, Sec. 3.3, Eqs. 12-13).

Everything starts again from the maps that the network computed once, so undoing an edit is leaving it out:
`edited_scores(sim, no_edits(..))` are the unedited scores to the last bit.

Letters: B batch, K concepts, M prototypes per concept, T targets, H W feature map, R boxes of the batch.
Boxes are x_min, y_min, x_max, y_max as fractions of the image; `row_R` is each one's place in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from csr.model.edit_defaults import ALPHA as ALPHA

REJECTED, UNTOUCHED, CONFIRMED = -1, 0, 1


@dataclass(frozen=True, eq=False)
class Edits:
    """Edits of a batch of images, each its own; an image without any keeps its scores.

    Attributes:
        decision_BK: int64, `REJECTED`, `UNTOUCHED` or `CONFIRMED`.
        box_R4: float, fractions of the image.
        row_R: int64, the image of each box.
        positive_R: bool, look here (True) or not here (False).
        alpha_B: importance outside of all boxes, 0 to 1.
    """

    decision_BK: torch.Tensor
    box_R4: torch.Tensor
    row_R: torch.Tensor
    positive_R: torch.Tensor
    alpha_B: torch.Tensor

    @property
    def has_box_B(self) -> torch.Tensor:
        count_B = torch.zeros_like(self.alpha_B).index_add_(0, self.row_R, torch.ones_like(self.box_R4[:, 0]))
        return count_B > 0


def no_edits(batch: int, num_concepts: int, *, device: torch.device | str = "cpu") -> Edits:
    """Return edits that change nothing: where every session starts, and what a reset restores."""
    return make_edits(torch.zeros(batch, num_concepts, dtype=torch.int64, device=device))


def make_edits(
    decision_BK: torch.Tensor,
    *,
    box_R4: torch.Tensor | None = None,
    row_R: torch.Tensor | None = None,
    positive_R: torch.Tensor | None = None,
    alpha: float | torch.Tensor = ALPHA,
) -> Edits:
    """Check edits and put them on one device.

    Args:
        decision_BK: -1 rejected, 0 untouched, 1 confirmed.
        box_R4: fractions of the image, x_min, y_min, x_max, y_max; None: no boxes.
        row_R: image of each box; may be left out if B is 1.
        positive_R: bool; None: all positive.
        alpha: importance outside of all boxes, for all images or (B,).

    Raises:
        ValueError: a decision, box, row or alpha that means nothing.
    """
    batch, device = len(decision_BK), decision_BK.device
    if not torch.isin(decision_BK, torch.tensor([-1, 0, 1], device=device)).all():
        raise ValueError("decisions on concepts are -1 (rejected), 0 (untouched) or 1 (confirmed)")
    box = torch.zeros(0, 4) if box_R4 is None else torch.as_tensor(box_R4, dtype=torch.float32).view(-1, 4)
    if row_R is None and len(box) and batch != 1:
        raise ValueError("boxes on a batch need row_R: the image that each one is on")
    row = torch.zeros(len(box), dtype=torch.int64) if row_R is None else torch.as_tensor(row_R).long()
    positive = torch.ones(len(box)) > 0 if positive_R is None else torch.as_tensor(positive_R).bool()
    alpha_B = torch.as_tensor(alpha, dtype=torch.float32).expand(batch)
    _check_boxes(box, row, positive, batch)
    if not ((alpha_B >= 0) & (alpha_B <= 1)).all():
        raise ValueError("alpha is an importance from 0 to 1")
    return Edits(decision_BK.long(), *(t.to(device) for t in (box, row, positive, alpha_B.contiguous())))


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

    A cell is in a box if its centre is, and every box has at least one cell. Where a positive and a
    negative box overlap the negative one wins: what a doctor ruled out stays out, in whatever order it was
    drawn.

    Returns:
        importance_BHW, float32.
    """
    batch = len(edits.alpha_B)
    inside_RHW = box_cells(edits.box_R4, height=height, width=width)
    count_BSHW = torch.zeros(batch, 2, height, width, device=edits.alpha_B.device)
    place_R = (edits.row_R, (~edits.positive_R).long())
    count_BSHW.index_put_(place_R, inside_RHW.to(count_BSHW), accumulate=True)
    positive_BHW, negative_BHW = (count_BSHW > 0).unbind(1)
    importance_BHW = edits.alpha_B.view(batch, 1, 1).repeat(1, height, width)
    importance_BHW.masked_fill_(positive_BHW, 1.0)
    importance_BHW.masked_fill_(negative_BHW, 0.0)
    return torch.where(edits.has_box_B.view(batch, 1, 1), importance_BHW, torch.ones_like(importance_BHW))


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
    sim_BKMHW: torch.Tensor, edits: Edits, *, absent_KM: torch.Tensor | None = None
) -> torch.Tensor:
    """Weight maps by importance in images with boxes; the others keep their maps as they are.

    Args:
        sim_BKMHW: the network's maps, unedited.
        edits: of these images.
        absent_KM: None: Eq. 12, max(similarity, 0) x A. A cosine of 0 is far from what the head saw, though,
            and that breaks more diagnoses than it fixes. Medians over training images without the concept:
            what a similarity exceeds them by is multiplied by A, what lies below them stays, so that a region
            that does not count looks as one without the concept does.

    Returns:
        sim_BKMHW, of the edited batch.
    """
    height, width = sim_BKMHW.shape[-2:]
    importance_BHW = importance_map(edits, height=height, width=width).to(sim_BKMHW)[:, None, None]
    if absent_KM is None:
        weighted = sim_BKMHW.clamp_min(0) * importance_BHW
    else:
        usual = absent_KM.to(sim_BKMHW)[..., None, None]
        weighted = torch.minimum(sim_BKMHW, usual + importance_BHW * (sim_BKMHW - usual))
    return torch.where(edits.has_box_B.view(-1, 1, 1, 1, 1), weighted, sim_BKMHW)


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
