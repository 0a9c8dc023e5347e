"""Parts of an image in full depth, reduced by a whole factor without mixing padding into what lies beside it.

Letters: H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csr.data.images.full_depth import FullDepth

MAX_SIDE = 2048  # pixels of a part, after the reduction
MAX_FACTOR = 64


@dataclass(frozen=True)
class Part:
    """A part of an image, in pixels of the image, and the factor by which it is reduced."""

    x: int
    y: int
    width: int
    height: int
    reduce: int = 1


def cut(depth: FullDepth, part: Part) -> np.ndarray:
    """Return the raw numbers of a part, (H, W) or (H, W, 3) of the image's type.

    Reduced, every number is the rounded mean of a block (of what is left of it at the edges) without its
    padding; a block of padding alone is padding.

    Args:
        depth: the image.
        part: within it.

    Raises:
        ValueError: it reaches beyond the image, or is larger than `MAX_SIDE`.
    """
    height, width = depth.raw.shape[:2]
    if part.x + part.width > width or part.y + part.height > height:
        raise ValueError(f"that part reaches beyond the image of {width} x {height} pixels")
    if max(-(-side // part.reduce) for side in (part.width, part.height)) > MAX_SIDE:
        raise ValueError(f"that part has more than {MAX_SIDE} pixels a side: reduce it, or ask for less")
    raw = depth.raw[part.y : part.y + part.height, part.x : part.x + part.width]
    if part.reduce == 1:
        return raw
    if depth.padding is None:
        counts = np.ones(raw.shape[:2], dtype=np.float32)
    else:
        first, last = depth.padding
        counts = ((raw < first) | (raw > last)).astype(np.float32)
    counted = counts if raw.ndim == 2 else counts[..., None]
    number = _block_sums(counts, part.reduce)
    total = _block_sums(raw * counted, part.reduce)
    mean = total / np.maximum(number if raw.ndim == 2 else number[..., None], 1)
    reduced = np.rint(mean).astype(raw.dtype)
    if depth.padding is not None:
        reduced[number == 0] = depth.padding[0]
    return reduced


def _block_sums(value: np.ndarray, factor: int) -> np.ndarray:
    """Return the sums over blocks of factor x factor pixels, in float64."""
    for axis in (0, 1):
        starts = np.arange(0, value.shape[axis], factor)
        value = np.add.reduceat(value, starts, axis=axis, dtype=np.float64)
    return value
