"""Local concept vectors (paper, Eq. 2): features averaged where a concept's map looks.

Letters: B batch, C channels, K concepts, H W feature map.
"""

from __future__ import annotations

import torch

from csr.model.layers.precision import full, no_autocast


def local_concept_vectors(feat_BCHW: torch.Tensor, cam_BKHW: torch.Tensor) -> torch.Tensor:
    """v_k = sum_hw softmax_hw(cam_k) feat.

    Args:
        feat_BCHW: backbone features, any floating type.
        cam_BKHW: concept activation maps of the same H x W.

    Returns:
        local_BKC, fp32.
    """
    with no_autocast(feat_BCHW):
        share_BKL = full(cam_BKHW).flatten(2).softmax(dim=2)
        return torch.einsum("bkl,bcl->bkc", share_BKL, full(feat_BCHW).flatten(2))
