"""Lung markings: vessels that branch out from the hila and thin towards the wall."""

from __future__ import annotations

import math

import numpy as np

from csr.data.phantom.anatomy import Chest
from csr.data.phantom.shapes import Ellipse, Ink, ellipse_radius, soft_step

NUM_TRUNKS = 10


def build_vessels(chest: Chest, *, rng: np.random.Generator) -> np.ndarray:
    """Build the density of both lungs' vessels and hila, (H, W)."""
    ink = Ink(chest.shape)
    for side in (-1, 1):
        for angle in np.linspace(-1.35, 1.25, NUM_TRUNKS) + rng.normal(0.0, 0.1, NUM_TRUNKS):
            start = side * rng.uniform(0.16, 0.22), rng.uniform(-0.16, 0.0)
            heading = angle if side > 0 else math.pi - angle
            _grow(chest, ink, start=start, heading=heading, width=0.024, generations=4, rng=rng)
    hilum = ellipse_radius(chest.a_HW, chest.v_HW, Ellipse(0.22, -0.08, 0.1, 0.17, tilt=-0.2))
    return 0.2 * ink.to_array() + 0.16 * soft_step(0.8 - hilum, 0.9)


def _grow(
    chest: Chest,
    ink: Ink,
    *,
    start: tuple[float, float],
    heading: float,
    width: float,
    generations: int,
    rng: np.random.Generator,
) -> None:
    """Draw one vessel from `start` and let two thinner ones follow, `generations` deep."""
    u, v = start
    points = [chest.to_pixel(u, v)]
    length = 0.05 + 1.8 * width
    for turn in rng.normal(0.0, 0.12, 3).tolist():
        heading += turn
        u, v = u + length * math.cos(heading), v + length * math.sin(heading)
        points.append(chest.to_pixel(u, v))
    ink.line(points, width=width * chest.pixels_per_unit, level=min(1.0, 0.25 + 28.0 * width))
    if generations > 1:
        for fork in (-0.3, 0.3):
            _grow(
                chest,
                ink,
                start=(u, v),
                heading=heading + fork + float(rng.normal(0.0, 0.12)),
                width=width * 0.68,
                generations=generations - 1,
                rng=rng,
            )
