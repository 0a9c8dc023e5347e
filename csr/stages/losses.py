"""Losses of the three stages: pure functions that return sums, fp32 inside (METHOD: Eqs. 6-9, BCE, focal).

Each function returns the SUM over the entries that it counts; the caller divides by a count taken over
all ranks and micro batches, so that neither changes the gradient. fp64 stays fp64 (gradient checks).

Letters: B batch, K concepts, M prototypes per concept, T targets, D embedding, H W map, N vectors.
Bridge to the paper: vec_ND is v', proto_KMD is p_km, sim_NK is sim(v', p_k).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

MARGIN_MODES = ("softtriple", "paper", "none")
MAX_COSINES = 2**24  # fp32 cosines held at once: 64 MiB, a few times that while softmax runs


def concept_bce(
    logit_BK: torch.Tensor, label_BK: torch.Tensor, pos_weight_K: torch.Tensor | None = None
) -> torch.Tensor:
    """Return binary cross-entropy on logits, positives weighted; summed over annotated entries.

    Args:
        logit_BK: any floating type.
        label_BK: 0..1 (soft labels count by their share); NaN is not annotated and adds nothing.
        pos_weight_K: weight of the positive term; None is 1.

    Returns:
        Scalar sum; 0 with a graph where nothing is annotated.
    """
    return _masked_bce(logit_BK, label_BK, pos_weight_K)[0].sum()


def task_bce(
    logit_BT: torch.Tensor, label_BT: torch.Tensor, pos_weight_T: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `concept_bce` for multi-label targets."""
    return concept_bce(logit_BT, label_BT, pos_weight_T)


def task_focal(
    logit_BT: torch.Tensor,
    label_BT: torch.Tensor,
    pos_weight_T: torch.Tensor | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> torch.Tensor:
    """Return focal loss (Lin et al. 2017, Eq. 5): alpha_t (1 - p_t)^gamma times the weighted BCE, summed.

    Args:
        logit_BT, label_BT, pos_weight_T: as for `concept_bce`.
        alpha: weight of positives; negatives get 1 - alpha.
        gamma: focusing exponent, 0 or from 1 up.
    """
    bce_BT, logit_BT, label_BT = _masked_bce(logit_BT, label_BT, pos_weight_T)
    # 1 - p_t without the cancellation of 1 - p
    miss_BT = label_BT * torch.sigmoid(-logit_BT) + (1 - label_BT) * torch.sigmoid(logit_BT)
    alpha_BT = alpha * label_BT + (1 - alpha) * (1 - label_BT)
    return (alpha_BT * miss_BT.pow(gamma) * bce_BT).sum()


def task_cross_entropy(
    logit_BT: torch.Tensor, label_BT: torch.Tensor, weight_T: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax cross-entropy against one-hot rows (or rows that sum to 1), summed over annotated rows.

    Args:
        logit_BT: any floating type.
        label_BT: one-hot; a row with any NaN adds nothing.
        weight_T: weight of each class; None is 1.
    """
    logit_BT = _full(logit_BT)
    known_B1 = ~label_BT.isnan().any(dim=1, keepdim=True)
    label_BT = torch.where(known_B1, label_BT.to(logit_BT.dtype), 0.0)
    if weight_T is not None:
        label_BT = label_BT * weight_T.to(logit_BT)
    log_prob_BT = torch.where(known_B1, logit_BT, 0.0).log_softmax(dim=1)
    return -(label_BT * log_prob_BT).sum()


def prototype_similarity(
    vec_ND: torch.Tensor, proto_KMD: torch.Tensor, *, gamma: float = 1000.0, max_cosines: int = MAX_COSINES
) -> torch.Tensor:
    """Return soft-assigned similarity of each vector to each concept (Eqs. 6-8).

    q_m = softmax_m(gamma <p_km, v'>) and sim_k = sum_m q_m <p_km, v'>.

    Args:
        vec_ND: unit vectors, any floating type; N may be 0.
        proto_KMD: unit prototypes.
        gamma: sharpness; at 1000 the best prototype takes nearly all. Cosines that are half precision
            tie there, so they are computed in fp32 whatever comes in.
        max_cosines: N x K x M above which N is cut into chunks that are computed again in backward.

    Returns:
        sim_NK, fp32 (fp64 for fp64 input).
    """
    with torch.autocast(vec_ND.device.type, enabled=False):
        vec_ND, proto_KMD = _full(vec_ND), _full(proto_KMD)
        num_concepts, num_per_concept, _ = proto_KMD.shape
        rows = max(1, max_cosines // (num_concepts * num_per_concept))
        if len(vec_ND) <= rows:
            return _soft_similarity(vec_ND, proto_KMD, gamma)
        chunks = [
            checkpoint(
                _soft_similarity, chunk_ND, proto_KMD, gamma, use_reentrant=False, preserve_rng_state=False
            )
            for chunk_ND in vec_ND.split(rows)
        ]
        return torch.cat(chunks)


def _soft_similarity(vec_ND: torch.Tensor, proto_KMD: torch.Tensor, gamma: float) -> torch.Tensor:
    cos_NKM = (vec_ND @ proto_KMD.flatten(0, 1).T).unflatten(1, proto_KMD.shape[:2])
    return (torch.softmax(gamma * cos_NKM, dim=2) * cos_NKM).sum(dim=2)


def contrastive(
    sim_NK: torch.Tensor,
    concept_N: torch.Tensor,
    present_NK: torch.Tensor | None = None,
    *,
    lam: float = 20.0,
    delta: float = 0.1,
    margin_mode: str = "softtriple",
) -> torch.Tensor:
    """Return softmax cross-entropy over concepts with a margin (Eq. 9), summed over vectors.

    Args:
        sim_NK: similarity of vector n to concept k, from `prototype_similarity`.
        concept_N: the concept that each vector stands for, int64.
        present_NK: concepts present in each vector's image, bool; the other present ones are left out of
            the denominator (they are no negatives). None keeps all.
        lam: scale of the softmax.
        delta: margin on the cosine.
        margin_mode: `softtriple` subtracts delta from the positive in numerator and denominator (Qian et
            al. 2019: the positive has to win by delta); `paper` adds it in the numerator only, as printed,
            which shifts the loss by -lam * delta and leaves the gradient as without; `none` ignores it.

    Returns:
        Scalar sum; 0 with a graph for N = 0.

    Raises:
        ValueError: unknown margin_mode.
    """
    if margin_mode not in MARGIN_MODES:
        raise ValueError(f"margin_mode {margin_mode!r}: one of {', '.join(MARGIN_MODES)}")
    logit_NK = lam * _full(sim_NK)
    own_NK = concept_N[:, None] == torch.arange(sim_NK.shape[1], device=sim_NK.device)
    if margin_mode == "softtriple":
        logit_NK = logit_NK - lam * delta * own_NK
    if present_NK is not None:
        logit_NK = logit_NK.masked_fill(present_NK & ~own_NK, float("-inf"))
    positive_N = logit_NK.gather(1, concept_N[:, None]).squeeze(1)
    if margin_mode == "paper":
        positive_N = positive_N + lam * delta
    return (torch.logsumexp(logit_NK, dim=1) - positive_N).sum()


def box_attention(cam_BKHW: torch.Tensor, mask_BKHW: torch.Tensor) -> torch.Tensor:
    """Return -log of the share of each map's spatial softmax that lies inside its boxes, summed.

    Args:
        cam_BKHW: concept activation maps, any floating type.
        mask_BKHW: bool, True inside boxes; a map without a True cell adds nothing.

    Returns:
        Scalar sum over the (image, concept) pairs with a box; 0 with a graph where there is none.
    """
    inside_BKL = mask_BKHW.flatten(2).bool()
    boxed_BK1 = inside_BKL.any(dim=2, keepdim=True)
    log_share_BKL = _full(cam_BKHW).flatten(2).log_softmax(dim=2)
    # maps without a box keep every cell, so that no logsumexp runs over nothing (NaN gradients)
    kept_BKL = log_share_BKL.masked_fill(boxed_BK1 & ~inside_BKL, float("-inf"))
    return -(torch.logsumexp(kept_BKL, dim=2, keepdim=True) * boxed_BK1).sum()


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _masked_bce(
    logit: torch.Tensor, label: torch.Tensor, pos_weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return BCE of each entry, 0 where the label is NaN; and the logits and labels that it was made of."""
    logit = _full(logit)
    known = ~label.isnan()
    label = torch.where(known, label.to(logit.dtype), 0.0)
    kept = torch.where(known, logit, 0.0)
    weight = None if pos_weight is None else pos_weight.to(logit)
    bce = F.binary_cross_entropy_with_logits(kept, label, pos_weight=weight, reduction="none")
    return torch.where(known, bce, 0.0), kept, label
