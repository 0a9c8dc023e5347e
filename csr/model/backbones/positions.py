"""Position embeddings for another image size.

Letters: N tokens, C channels.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from csr.runtime.errors import InputError


def resize_positions(pos_1NC: torch.Tensor, *, num_prefix: int, grid: tuple[int, int]) -> torch.Tensor:
    """Interpolate (bicubic) the patch positions of a square grid to another; prefix tokens stay.

    Args:
        pos_1NC: positions of the prefix tokens, then of the patches row by row.
        num_prefix: tokens that stand for no patch.
        grid: rows and columns wanted.

    Returns:
        (1, num_prefix + rows * columns, C) of the same type; the same tensor if it fits already.

    Raises:
        InputError: the patches given form no square.
    """
    num_patches = pos_1NC.shape[1] - num_prefix
    if num_patches == grid[0] * grid[1]:
        return pos_1NC
    side = math.isqrt(max(num_patches, 0))
    if side < 1 or side * side != num_patches:
        raise InputError(f"{num_patches} position embeddings form no square: they cannot be interpolated")
    patch_1CHW = pos_1NC[:, num_prefix:].float().transpose(1, 2).unflatten(2, (side, side))
    resized_1CHW = F.interpolate(patch_1CHW, size=grid, mode="bicubic", align_corners=False)
    resized_1NC = resized_1CHW.flatten(2).transpose(1, 2).to(pos_1NC.dtype)
    return torch.cat([pos_1NC[:, :num_prefix], resized_1NC], dim=1)
