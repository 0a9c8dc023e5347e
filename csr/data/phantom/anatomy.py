"""Where things are in one patient's chest, and the density of a chest without lesions.

Suffix letters: H W picture. The picture is built from two maps: `air_HW`, how much of the ray's way
through the lung is aerated (heart, fluid and consolidation take it away), and `bone_HW`, what is
added on top. Soft tissue is what is left.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from csr.data.phantom.patient import UNITS_PER_HEIGHT, Patient
from csr.data.phantom.shapes import Ellipse, ellipse_radius, soft_step


@lru_cache(maxsize=8)
def _pixel_grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres in chest units from the picture's centre: x (1, W) and y (H, 1)."""
    height, width = shape
    unit = UNITS_PER_HEIGHT / height
    x_1W = ((np.arange(width) + 0.5 - width / 2) * unit).astype(np.float32)[None, :]
    y_H1 = ((np.arange(height) + 0.5 - height / 2) * unit).astype(np.float32)[:, None]
    return x_1W, y_H1


class Chest:
    """Geometry of one patient in one picture.

    Args:
        patient: the numbers.
        shape: (height, width) of the picture, pixels.

    Attributes:
        u_HW, v_HW: chest coordinates of each pixel; a_HW is |u|.
        left_HW: True in the patient's left half.
        wall_HW: distance to the inner chest wall, positive inside.
        floor_HW: v of the diaphragm.
        lung_HW: 0 to 1, both lungs, heart and all not yet taken out.
    """

    def __init__(self, patient: Patient, *, shape: tuple[int, int]) -> None:
        self.patient = patient
        self.shape = shape
        self.pixels_per_unit = shape[0] / UNITS_PER_HEIGHT * patient.zoom
        unit = shape[0] / UNITS_PER_HEIGHT
        turn = self.pixels_per_unit * np.exp(1j * patient.tilt)
        self._turn = float(turn.real), float(turn.imag)
        self._origin = patient.shift_u * unit + shape[1] / 2, patient.shift_v * unit + shape[0] / 2
        x_1W, y_H1 = _pixel_grid(shape)
        cos, sin = np.cos(patient.tilt) / patient.zoom, np.sin(patient.tilt) / patient.zoom
        x_1W, y_H1 = x_1W - np.float32(patient.shift_u), y_H1 - np.float32(patient.shift_v)
        self.u_HW = x_1W * np.float32(cos) + y_H1 * np.float32(sin)
        self.v_HW = y_H1 * np.float32(cos) - x_1W * np.float32(sin)
        self.a_HW = np.abs(self.u_HW)
        self.left_HW = self.u_HW > 0
        self.edge = 0.035
        self.lung_HW = self._build_lungs()

    def _build_lungs(self) -> np.ndarray:
        patient = self.patient
        t_HW = np.clip((self.v_HW - patient.apex) / (0.66 - patient.apex), 0.0, 1.0)
        self.wall_HW = lateral(t_HW, patient.chest) - self.a_HW
        drop_HW = np.where(self.left_HW, np.float32(patient.left_drop), np.float32(0.0))
        self.floor_HW = diaphragm(self.a_HW, patient) + drop_HW
        slope_HW = np.clip(0.25 + 2.0 * t_HW, 0.0, 1.0)
        return (
            soft_step(self.wall_HW * slope_HW, self.edge)
            * soft_step((self.a_HW - medial(t_HW)) * slope_HW, self.edge)
            * soft_step(self.floor_HW - self.v_HW, self.edge)
        )

    def to_pixel(self, u: float, v: float) -> tuple[float, float]:
        """Return the (x, y) of a chest point; the first pixel reaches from 0 to 1."""
        cos, sin = self._turn
        x0, y0 = self._origin
        return u * cos - v * sin + x0, u * sin + v * cos + y0

    def point(self, side: int, *, across: float, down: float) -> tuple[float, float]:
        """Return a chest point inside a lung.

        Args:
            side: -1 the patient's right lung, 1 the left.
            across: 0 at the mediastinum, 1 at the chest wall.
            down: 0 at the apex, 1 at the diaphragm.
        """
        patient = self.patient
        drop = patient.left_drop if side > 0 else 0.0
        v = patient.apex + down * (patient.base + drop - patient.apex)
        t = np.array(np.clip((v - patient.apex) / (0.66 - patient.apex), 0.0, 1.0))
        inner, outer = float(medial(t)), float(lateral(t, patient.chest))
        return side * (inner + across * (outer - inner)), v


def lateral(t: np.ndarray, chest: float) -> np.ndarray:
    """Return the inner chest wall's |u| at height t (0 apex, 1 base)."""
    q = 1.0 - t
    return np.sqrt(1.0 - q * q * q * q * q) * (chest * (0.76 + 0.24 * t))


def medial(t: np.ndarray) -> np.ndarray:
    """Return the inner border of the lungs at height t; it bends outwards towards the apex."""
    q = (1.0 - t) ** 2
    q = q * q
    return 0.13 + 0.23 * q * q * q


def diaphragm(a: np.ndarray, patient: Patient) -> np.ndarray:
    """Return v of the right dome at |u| = a: highest near the middle of the lung, deep at the wall."""
    x = (a - 0.42) * (1.0 / 0.5)
    return patient.base + patient.dome * (1.15 * x * x - 0.6)


def heart_ellipse(patient: Patient) -> Ellipse:
    """Return the heart's ellipse; its full width over the chest's gives the heart ratio."""
    half = patient.heart_ratio * patient.chest
    u = patient.heart_shift + 0.12 * (half - 0.4)
    return Ellipse(u, patient.base + 0.05 - 0.72 * half, 1.1 * half, 0.8 * half, tilt=0.6)


def build_centre(chest: Chest) -> np.ndarray:
    """Build what displaces lung in the middle: heart, great vessels and aorta, (H, W), 0 to 1."""
    radius_HW = ellipse_radius(chest.u_HW, chest.v_HW, heart_ellipse(chest.patient))
    heart_HW = soft_step((1.0 - radius_HW) * 0.4, chest.edge)
    stem_HW = soft_step(0.19 + 0.05 * chest.v_HW - np.abs(chest.u_HW - 0.02), 0.05)
    return 1.0 - (1.0 - heart_HW) * (1.0 - stem_HW) * (1.0 - build_aorta(chest))


def build_aorta(chest: Chest) -> np.ndarray:
    """Build the aortic knob, and the descending aorta where it is unfolded, (H, W), 0 to 1."""
    knob, unfold = chest.patient.knob, chest.patient.unfold
    round_knob = Ellipse(0.15 + 0.5 * (knob - 0.08), -0.4, knob, 1.15 * knob)
    knob_HW = soft_step((1.0 - ellipse_radius(chest.u_HW, chest.v_HW, round_knob)) * knob, 0.04)
    if not unfold:
        return knob_HW
    bend_HW = 0.2 + unfold * (1.0 - np.square((chest.v_HW + 0.2) * 1.6))
    down_HW = soft_step(bend_HW - chest.u_HW, 0.05) * soft_step(chest.v_HW + 0.4, 0.04)
    return np.maximum(knob_HW, 0.9 * down_HW * chest.left_HW)
