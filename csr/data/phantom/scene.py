"""One picture in the making: the maps that findings change, and their boxes.

Suffix letters: H W picture.
"""

from __future__ import annotations

import numpy as np

from csr.data.phantom.anatomy import Chest, build_centre
from csr.data.phantom.bones import build_bones
from csr.data.phantom.shapes import Ellipse, ellipse_radius, soft_step
from csr.data.phantom.vessels import build_vessels

SIDES = (-1, 1)
AIR_CONTRAST = 0.79

Box = tuple[float, float, float, float]


class Scene:
    """The chest as maps that add up to a density.

    Args:
        chest: geometry of the patient.
        rng: generator of this picture.

    Attributes:
        air_HW: 0 to about 1, how much of the ray's way is aerated lung.
        added_HW: density on top of soft tissue (bones, nodules, calcium).
        markings_HW: vessels, shown where there is air.
        boxes: (finding, (x_min, y_min, x_max, y_max)) in pixels, in the order drawn.
    """

    def __init__(self, chest: Chest, *, rng: np.random.Generator) -> None:
        self.chest = chest
        self.centre_HW = build_centre(chest)
        self.air_HW = chest.lung_HW * (1.0 - 0.85 * self.centre_HW)
        self.added_HW = build_bones(chest)
        self.markings_HW = build_vessels(chest, rng=rng)
        self.boxes: list[tuple[str, Box]] = []
        self._free_HW = self.air_HW

    def density(self) -> np.ndarray:
        """Return the density that the ray meets, (H, W), 0 outside the body."""
        patient = self.chest.patient
        air_HW = np.clip(self.air_HW * patient.aeration, 0.0, 1.15)
        soft_HW = build_tissue(self.chest) * (1.0 - AIR_CONTRAST * air_HW)
        return soft_HW + self.added_HW + patient.markings * self.markings_HW * self.air_HW

    def add_box(self, name: str, mask_HW: np.ndarray, *, threshold: float = 0.5) -> None:
        """Add the box of a mask; a mask that leaves the picture gives no box."""
        inside_HW = mask_HW > threshold
        rows, columns = np.flatnonzero(inside_HW.any(1)), np.flatnonzero(inside_HW.any(0))
        if rows.size:
            box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            self.boxes.append((name, (float(box[0]), float(box[1]), float(box[2]), float(box[3]))))

    def radius(self, ellipse: Ellipse) -> np.ndarray:
        """Return `ellipse_radius` over this picture."""
        return ellipse_radius(self.chest.u_HW, self.chest.v_HW, ellipse)

    def occupy(self, mask_HW: np.ndarray) -> None:
        """Keep later lesions out of a region, so that none is hidden by another."""
        self._free_HW = self._free_HW * (1.0 - mask_HW)

    def find_spot(
        self, *, radius: float, down: tuple[float, float], rng: np.random.Generator
    ) -> tuple[float, float]:
        """Return the chest coordinates (u, v) of a place in a lung where a lesion of this radius shows.

        Args:
            radius: of the lesion, chest units.
            down: range of heights, 0 at the apex to 1 at the diaphragm.
            rng: generator of this picture.
        """
        spots = [
            self.chest.point(
                SIDES[int(rng.integers(2))],
                across=rng.uniform(0.2, 0.85),
                down=rng.uniform(*down),
            )
            for _ in range(12)
        ]
        return max(spots, key=lambda spot: self._freedom(spot, radius))

    def _freedom(self, spot: tuple[float, float], radius: float) -> float:
        """Return the least air at the centre and four points around it, in steps so that ties keep chance."""
        height, width = self.chest.shape
        lowest = 1.0
        for du, dv in ((0.0, 0.0), (radius, 0.0), (-radius, 0.0), (0.0, radius), (0.0, -radius)):
            x, y = self.chest.to_pixel(spot[0] + du, spot[1] + dv)
            inside = 0 <= x < width and 0 <= y < height
            lowest = min(lowest, float(self._free_HW[int(y), int(x)]) if inside else 0.0)
        return min(round(lowest, 1), 0.9)


def build_tissue(chest: Chest) -> np.ndarray:
    """Build soft tissue without air: trunk, shoulders, neck, abdomen, breasts, (H, W)."""
    patient, v_HW = chest.patient, chest.v_HW
    shoulder_HW = np.clip((v_HW + 1.3) * (1.0 / 0.45), 0.0, 1.0)
    half_HW = 0.34 + (0.76 + 0.12 * patient.bulk) * shoulder_HW * (2.0 - shoulder_HW)
    half_HW = half_HW - 0.12 * soft_step(v_HW - 0.1, 1.0)
    across_HW = np.clip(chest.a_HW / half_HW, 0.0, 1.0)
    depth_HW = np.sqrt(1.0 - across_HW * across_HW)
    belly_HW = soft_step(v_HW - chest.floor_HW, 0.3)
    thick_HW = 1.25 + 0.15 * patient.bulk + 0.3 * belly_HW
    if patient.breast:
        thick_HW = thick_HW + 0.3 * patient.breast * _build_breasts(chest)
    return patient.bulk * depth_HW * thick_HW


def _build_breasts(chest: Chest) -> np.ndarray:
    radius_HW = ellipse_radius(chest.a_HW, chest.v_HW, Ellipse(0.52, 0.25, 0.45, 0.42))
    return soft_step((1.0 - radius_HW) * 0.45, 0.25) * soft_step(chest.v_HW, 0.5)
