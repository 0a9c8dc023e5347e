"""Concept activation maps and their logits (paper, Sec. 3.1): a 1x1 convolution without bias, then pooling.

Letters: B batch, C channels, K concepts, H W feature map.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from csr.model.layers.precision import full, no_autocast

POOLS = ("avg", "max", "lse")


class ConceptHead(nn.Module):
    """feat_BCHW -> cam_BKHW, in fp32 whatever the features are."""

    def __init__(self, channels: int, num_concepts: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, num_concepts, kernel_size=1, bias=False)
        nn.init.normal_(self.conv.weight, std=0.01)

    def forward(self, feat_BCHW: torch.Tensor) -> torch.Tensor:
        with no_autocast(feat_BCHW):
            # not conv2d: on GPUs cuDNN's fp32 convolutions round their operands to TF32 by default
            weight_KC = full(self.conv.weight)[:, :, 0, 0]
            return torch.einsum("kc,bchw->bkhw", weight_KC, full(feat_BCHW))


def pool_cams(cam_BKHW: torch.Tensor, mode: str = "avg") -> torch.Tensor:
    """Pool one logit per concept out of its map.

    Args:
        cam_BKHW: concept activation maps.
        mode: `avg` (paper), `max`, or `lse`, log of the mean of exp: between the two, and 0 for a map of
            zeros whatever its size.

    Returns:
        (B, K), fp32.

    Raises:
        ValueError: unknown mode.
    """
    cam_BKL = full(cam_BKHW).flatten(2)
    if mode == "avg":
        return cam_BKL.mean(dim=2)
    if mode == "max":
        return cam_BKL.amax(dim=2)
    if mode == "lse":
        return torch.logsumexp(cam_BKL, dim=2) - math.log(cam_BKL.shape[2])
    raise ValueError(f"concept_pool {mode!r}: one of {', '.join(POOLS)}")


def local_concept_vectors(feat_BCHW: torch.Tensor, cam_BKHW: torch.Tensor) -> torch.Tensor:
    """Return v_k = sum_hw softmax_hw(cam_k) feat.

    Args:
        feat_BCHW: backbone features, any floating type.
        cam_BKHW: concept activation maps of the same H x W.

    Returns:
        local_BKC, fp32.
    """
    with no_autocast(feat_BCHW):
        share_BKL = full(cam_BKHW).flatten(2).softmax(dim=2)
        return torch.einsum("bkl,bcl->bkc", share_BKL, full(feat_BCHW).flatten(2))
