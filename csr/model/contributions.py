"""What each concept adds to each diagnosis, counted from an image without findings.

The head is linear, so a logit is its bias plus all products weight x score. A cosine of a concept that is
absent is far from 0, so most of such a product is a constant that the bias takes back. Counted from the
absent medians a_km (median score over training images without concept k) only what differs is left:

    base_t = b_t + sum_km w_tkm a_km,  contribution_tkm = w_tkm (s_km - a_km),  logit_t = base_t + their sum

Letters: B batch, K concepts, M prototypes per concept, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from csr.model.csr import CSR

NO_MEDIANS = (
    "The model has no absent medians (its reference.json is missing or has none): contributions are counted "
    "from a cosine of 0, and most of each is the same for every image."
)


@dataclass(frozen=True, eq=False)
class Contributions:
    """Logits taken apart; fp64, so that sums over all prototypes lose nothing.

    Attributes:
        base_T: logits of an image whose scores are `usual_KM`.
        share_BTKM: what each prototype adds; logit_BT = base_T + share_BTKM summed over K and M.
        weight_TKM: of the head.
        usual_KM: scores that contributions are counted from; 0 where there are no medians.
    """

    base_T: torch.Tensor
    share_BTKM: torch.Tensor
    weight_TKM: torch.Tensor
    usual_KM: torch.Tensor


def contributions(
    score_BKM: torch.Tensor, weight_TKM: torch.Tensor, bias_T: torch.Tensor, usual_KM: torch.Tensor
) -> Contributions:
    """Take logits apart.

    Args:
        score_BKM: similarity scores, edited or not.
        weight_TKM, bias_T: of the linear head.
        usual_KM: scores of an image without findings; a score equal to it contributes exactly 0.
    """
    score_BKM, weight_TKM = score_BKM.detach().double(), weight_TKM.detach().double()
    usual_KM = usual_KM.to(score_BKM)
    base_T = bias_T.detach().double() + (weight_TKM * usual_KM).sum(dim=(1, 2))
    share_BTKM = weight_TKM.unsqueeze(0) * (score_BKM - usual_KM).unsqueeze(1)
    return Contributions(base_T, share_BTKM, weight_TKM, usual_KM)


def model_contributions(model: CSR, score_BKM: torch.Tensor) -> Contributions:
    """Take logits of a model apart, on the CPU, from the absent medians of its card.

    Args:
        model: with or without a card; without absent medians contributions are counted from 0 (say
            `NO_MEDIANS`).
        score_BKM: its scores, edited or not.
    """
    linear = model.task_head.linear
    absent_KM = None if model.card is None else model.card.reference.absent_KM
    kept_KM = model.prototypes.kept_KM.cpu()
    usual_KM = torch.zeros(kept_KM.shape, dtype=torch.float64)
    if absent_KM is not None:
        # a dropped prototype scores 0 in every image, whatever its median was before
        usual_KM = torch.where(kept_KM, absent_KM.cpu().double(), usual_KM)
    weight_TKM = linear.weight.cpu().unflatten(1, kept_KM.shape)
    return contributions(score_BKM.cpu(), weight_TKM, linear.bias.cpu(), usual_KM)
