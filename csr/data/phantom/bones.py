"""Ribs, clavicles and spine, as density added to the soft parts.

Suffix letters: H W picture.
"""

from __future__ import annotations

import numpy as np

from csr.data.phantom.anatomy import Chest
from csr.data.phantom.shapes import soft_step


def build_bones(chest: Chest) -> np.ndarray:
    """Build the density of all bones, (H, W)."""
    return _build_ribs(chest) + _build_clavicles(chest) + _build_spine(chest)


def _build_ribs(chest: Chest) -> np.ndarray:
    """Build posterior ribs, nearly level then falling to the wall, and fainter steep anterior ones."""
    patient, a_HW, v_HW = chest.patient, chest.a_HW, chest.v_HW
    x_HW = a_HW - 0.25
    back_HW = (v_HW - patient.rib_curve * x_HW * x_HW) / patient.rib_spacing + patient.rib_phase
    y_HW = patient.chest + 0.05 - a_HW
    front_HW = (v_HW - 0.85 * y_HW + 0.35 * y_HW * y_HW) / (1.15 * patient.rib_spacing)
    front_HW = front_HW + 1.7 * patient.rib_phase
    cage_HW = soft_step(chest.wall_HW + 0.06, 0.08) * soft_step(chest.floor_HW + 0.3 - v_HW, 0.4)
    ribs_HW = 0.18 * _stripe(back_HW, half=0.2) * soft_step(a_HW - 0.1, 0.06)
    ribs_HW += 0.1 * _stripe(front_HW, half=0.22) * soft_step(a_HW - 0.4, 0.2)
    # Seen along its length at the wall, a rib is denser.
    return patient.rib_level * cage_HW * ribs_HW * (1.0 + 0.6 * soft_step(0.08 - chest.wall_HW, 0.2))


def _stripe(phase_HW: np.ndarray, *, half: float) -> np.ndarray:
    """Build a band at each whole phase, brighter along its two edges as cortical bone is."""
    off_HW = np.abs(phase_HW - np.rint(phase_HW))
    return soft_step(half - off_HW, 0.12) * (0.65 + (0.5 / half**2) * off_HW * off_HW)


def _build_clavicles(chest: Chest) -> np.ndarray:
    a_HW = chest.a_HW
    line_HW = chest.patient.apex + 0.36 - 0.32 * a_HW + 0.04 * np.sin(6.0 * a_HW)
    off_HW = np.abs(chest.v_HW - line_HW)
    bar_HW = soft_step(0.045 - off_HW, 0.03) * (0.7 + 160.0 * off_HW * off_HW)
    ends_HW = soft_step(a_HW - 0.08, 0.04) * soft_step(1.15 - a_HW, 0.1)
    return 0.26 * chest.patient.rib_level * bar_HW * ends_HW


def _build_spine(chest: Chest) -> np.ndarray:
    """Build vertebral bodies with darker discs between, and the air column of the trachea."""
    disc_HW = np.abs(np.sin(chest.v_HW * np.float32(np.pi / 0.17)))
    column_HW = soft_step(0.1 - chest.a_HW, 0.04) * (0.12 + 0.14 * soft_step(disc_HW - 0.3, 0.5))
    trachea_HW = soft_step(0.05 - np.abs(chest.u_HW - 0.01), 0.04) * soft_step(-0.3 - chest.v_HW, 0.3)
    return column_HW - 0.35 * trachea_HW
