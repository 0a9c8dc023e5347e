"""Projector P (paper, Sec. 3.1): residual 1x1-convolution blocks into the space of the prototypes.

A 1x1 convolution is a linear layer on the channel axis, so one module serves maps with channels last
(B, H, W, C) and single vectors (N, C). LayerNorm and not BatchNorm: it treats both alike and has no
statistics to go stale or to differ between ranks.

Letters: C channels, D embedding; `...` any leading axes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from csr.model.layers.precision import full


class ResidualBlock(nn.Module):
    """x + linear(relu(norm(x))): the ReLU stands inside, so the sum keeps both signs and cosines spread."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(F.relu(self.norm(x)))


class Projector(nn.Module):
    """(..., C) -> unit vectors (..., D).

    Args:
        channels: C.
        dim: D.
        num_blocks: residual blocks; 0 leaves one linear map.
    """

    def __init__(self, channels: int, dim: int = 128, num_blocks: int = 3) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)  # backbones differ in scale by orders of magnitude
        self.input = nn.Linear(channels, dim)
        self.blocks = nn.Sequential(*[ResidualBlock(dim) for _ in range(num_blocks)])

    def forward(self, feat: torch.Tensor) -> torch.Tensor:
        """Return unit vectors along the last axis, fp32; zero rows in (0, C) give (0, D)."""
        hidden = self.blocks(self.input(self.norm(feat.to(self.input.weight.dtype))))
        return F.normalize(full(hidden), dim=-1)
