"""The findings of heart, vessels and pleura: size, border and absent markings.

Each function changes a scene and boxes what it drew. Suffix letters: H W picture.
"""

from __future__ import annotations

import numpy as np

from csr.data.phantom.anatomy import build_aorta, heart_ellipse, lateral
from csr.data.phantom.scene import SIDES, Scene
from csr.data.phantom.shapes import soft_step


def draw_cardiomegaly(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Mark the heart, already drawn wider than half of the chest (`patient.heart_ratio`)."""
    scene.add_box("Cardiomegaly", 2.0 - scene.radius(heart_ellipse(scene.chest.patient)), threshold=1.0)


def draw_aortic_enlargement(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Mark the aorta, already drawn with a large knob and unfolded (`patient.knob`)."""
    chest = scene.chest
    seen_HW = (chest.u_HW > 0.08) & (chest.v_HW < 0.2)
    scene.add_box("Aortic enlargement", build_aorta(chest) * seen_HW)


def draw_emphysema(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Mark low flat domes and dark lungs with few markings (`patient.base`, `dome`, `aeration`)."""
    chest = scene.chest
    for side in SIDES:
        scene.add_box("Emphysema", chest.lung_HW * (chest.left_HW == (side > 0)))


def draw_pleural_effusion(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Draw fluid that blunts the costophrenic angle and climbs the wall in a meniscus."""
    chest, patient = scene.chest, scene.chest.patient
    sides = SIDES if rng.random() < 0.25 else (SIDES[int(rng.integers(2))],)
    for side in sides:
        level = patient.base + 0.03 - (0.15 + 0.36 * strength) * rng.uniform(0.9, 1.1)
        climb = rng.uniform(0.2, 0.3)
        rise_HW = np.clip(1.0 - chest.wall_HW * (1.0 / 0.75), 0.0, 1.2)
        surface_HW = level + 0.12 - climb * rise_HW * rise_HW * rise_HW
        fluid_HW = soft_step(chest.v_HW - surface_HW, 0.09) * (chest.left_HW == (side > 0))
        scene.add_box("Pleural effusion", fluid_HW * chest.lung_HW)
        scene.air_HW = scene.air_HW * (1.0 - 0.95 * fluid_HW)
        scene.added_HW = scene.added_HW + 0.15 * fluid_HW * chest.lung_HW
        scene.occupy(fluid_HW)


def draw_pneumothorax(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Draw air between wall and lung: a fine pleural line, and no markings outside of it."""
    chest, patient = scene.chest, scene.chest.patient
    side = SIDES[int(rng.integers(2))]
    t_HW = np.clip((chest.v_HW - patient.apex) / (patient.base - patient.apex), 0.0, 1.0)
    width = 0.13 + 0.2 * strength
    reach = rng.uniform(0.8, 1.1) + 0.2 * strength
    gap_HW = width * (1.35 - 1.25 * t_HW / reach)
    # The lung's border follows the wall at a distance, and rounds off below the apex.
    outline_HW = lateral(np.clip(t_HW - 0.35 * width, 0.0, 1.0), patient.chest)
    depth_HW = outline_HW - gap_HW - chest.a_HW
    half_HW = chest.lung_HW * (chest.left_HW == (side > 0))
    outside_HW = soft_step(-depth_HW, 0.025) * half_HW
    line_HW = soft_step(0.017 - np.abs(depth_HW), 0.02) * half_HW * soft_step(gap_HW, 0.05)
    scene.add_box("Pneumothorax", outside_HW)
    scene.markings_HW = scene.markings_HW * (1.0 - outside_HW) + (0.14 + 0.08 * strength) * line_HW
    collapsed_HW = half_HW - outside_HW
    scene.air_HW = scene.air_HW * (1.0 + 0.07 * outside_HW - (0.06 + 0.14 * strength) * collapsed_HW)
    scene.occupy(outside_HW)
