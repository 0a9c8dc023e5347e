"""Soft-edged shapes and textures, the vocabulary in which the phantom is drawn.

Suffix letters: H W picture. Lengths are chest units (half of the inner chest is about 0.9).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Points = list[tuple[float, float]]


def soft_step(distance_HW: np.ndarray, width: float) -> np.ndarray:
    """Step softly: 0 where the distance is below -width/2, 1 above width/2, smooth in between."""
    t_HW = np.clip(distance_HW * np.float32(1.0 / width) + np.float32(0.5), 0.0, 1.0)
    return t_HW * t_HW * (np.float32(3.0) - np.float32(2.0) * t_HW)


class Ellipse(NamedTuple):
    """Centre and half axes along u and v before a rotation by `tilt` radians."""

    u: float
    v: float
    radius_u: float
    radius_v: float
    tilt: float = 0.0


def ellipse_radius(u_HW: np.ndarray, v_HW: np.ndarray, ellipse: Ellipse) -> np.ndarray:
    """Return how far out each chest point (u, v) lies: 0 at the ellipse's centre, 1 on the ellipse."""
    du_HW, dv_HW = u_HW - np.float32(ellipse.u), v_HW - np.float32(ellipse.v)
    cos, sin = np.float32(np.cos(ellipse.tilt)), np.float32(np.sin(ellipse.tilt))
    a_HW = (du_HW * cos + dv_HW * sin) * np.float32(1.0 / ellipse.radius_u)
    b_HW = (dv_HW * cos - du_HW * sin) * np.float32(1.0 / ellipse.radius_v)
    return np.sqrt(a_HW * a_HW + b_HW * b_HW)


def smooth_noise(shape: tuple[int, int], *, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Draw clouds: normal noise on a `cells` x `cells` lattice, interpolated to (height, width)."""
    lattice = rng.standard_normal((cells, cells), dtype=np.float32)
    height, width = shape
    return np.asarray(Image.fromarray(lattice).resize((width, height), Image.Resampling.BICUBIC))


class Ink:
    """Antialiased lines: drawn at twice the size, then averaged; `to_array` gives 0..1.

    Args:
        shape: (height, width) of the picture.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._image = Image.new("L", (2 * shape[1], 2 * shape[0]))
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Points, *, width: float, level: float) -> None:
        """Draw a polyline through (x, y) pixels, `width` pixels wide, as bright as `level` (0 to 1)."""
        doubled = [(2.0 * x, 2.0 * y) for x, y in points]
        self._draw.line(doubled, fill=round(255 * level), width=max(1, round(2 * width)), joint="curve")

    def polygon(self, points: Points, *, level: float) -> None:
        """Draw a filled polygon through (x, y) pixels."""
        self._draw.polygon([(2.0 * x, 2.0 * y) for x, y in points], fill=round(255 * level))

    def to_array(self) -> np.ndarray:
        """Return the drawing, (height, width), 0 to 1."""
        return np.asarray(self._image.reduce(2), dtype=np.float32) * np.float32(1.0 / 255.0)
