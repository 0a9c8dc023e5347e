"""The findings inside the lungs: small and bright, round, hollow, large and faint, textured.

Each function changes a scene and boxes what it drew. Suffix letters: H W picture.
"""

from __future__ import annotations

import math

import numpy as np

from csr.data.phantom.scene import Scene
from csr.data.phantom.shapes import Ellipse, Ink, Points, smooth_noise, soft_step


def draw_consolidation(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Draw a large ill-defined opacity, patchy, crossed by air-filled bronchi."""
    size = rng.uniform(0.26, 0.4)
    u, v = scene.find_spot(radius=0.6 * size, down=(0.25, 0.9), rng=rng)
    patch = Ellipse(u, v, size, size * rng.uniform(0.7, 1.1), tilt=rng.uniform(0.0, 3.0))
    shape = scene.chest.shape
    ragged_HW = 1.0 - scene.radius(patch) + 0.28 * smooth_noise(shape, cells=10, rng=rng)
    patch_HW = soft_step(ragged_HW, 0.7) * scene.chest.lung_HW
    same_side_HW = scene.chest.left_HW == (u > 0)
    patch_HW = patch_HW * same_side_HW
    grain_HW = 1.0 + 0.16 * smooth_noise(shape, cells=28, rng=rng)
    bronchi_HW = _draw_bronchi(scene, centre=(u, v), size=size, rng=rng)
    dense_HW = patch_HW * grain_HW * (0.42 + 0.33 * strength) * (1.0 - 0.45 * bronchi_HW)
    scene.add_box("Consolidation", patch_HW)
    scene.air_HW = scene.air_HW * (1.0 - np.clip(dense_HW, 0.0, 0.9))
    scene.occupy(patch_HW)


def _draw_bronchi(
    scene: Scene, *, centre: tuple[float, float], size: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw branching dark lines from the hilum's side into the opacity, (H, W), 0 to 1."""
    chest = scene.chest
    ink = Ink(chest.shape)
    hilum_u = 0.2 if centre[0] > 0 else -0.2
    toward = math.atan2(centre[1] + 0.08, centre[0] - hilum_u)
    for _ in range(5):
        heading = toward + rng.normal(0.0, 0.5)
        u, v = centre[0] - 0.5 * size * math.cos(toward), centre[1] - 0.5 * size * math.sin(toward)
        points = [chest.to_pixel(u, v)]
        for turn in rng.normal(0.0, 0.2, 5).tolist():
            heading += turn
            u, v = u + 0.25 * size * math.cos(heading), v + 0.25 * size * math.sin(heading)
            points.append(chest.to_pixel(u, v))
        ink.line(points, width=0.017 * chest.pixels_per_unit, level=0.9)
    return ink.to_array()


def draw_cavity(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Draw a thick-walled ring with air inside, sometimes with a fluid level; upper zones first."""
    size = 0.12 + 0.07 * strength + rng.uniform(0.0, 0.02)
    wall = rng.uniform(0.035, 0.055)
    u, v = scene.find_spot(radius=size, down=(0.15, 0.6), rng=rng)
    ring = Ellipse(u, v, size, size * rng.uniform(0.8, 1.15), tilt=rng.uniform(0.0, 3.0))
    wavy_HW = 0.12 * smooth_noise(scene.chest.shape, cells=14, rng=rng)
    out_HW = (scene.radius(ring) - 1.0 + wavy_HW) * size
    inside_HW = soft_step(-out_HW - wall * (1.0 + 2.5 * wavy_HW), 0.03)
    whole_HW = soft_step(-out_HW, 0.04)
    haze_HW = soft_step(0.05 - out_HW, 0.25)
    level = v + size * rng.uniform(0.1, 0.4) if rng.random() < 0.4 else v + 9.0
    fluid_HW = inside_HW * soft_step(scene.chest.v_HW - level, 0.02)
    solid_HW = whole_HW - inside_HW + fluid_HW
    density = 0.23 + 0.12 * strength
    added_HW = density * solid_HW + 0.07 * haze_HW * (1.0 - inside_HW) - 0.05 * (inside_HW - fluid_HW)
    scene.add_box("Cavity", whole_HW)
    scene.added_HW = scene.added_HW + added_HW * scene.chest.lung_HW
    scene.markings_HW = scene.markings_HW * (1.0 - inside_HW)
    scene.occupy(haze_HW)


def draw_nodule(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Draw one to three solid round lesions with an uneven border, from a nodule to a mass."""
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
        size = (0.09 + 0.085 * strength) * rng.uniform(0.9, 1.15)
        u, v = scene.find_spot(radius=1.3 * size, down=(0.12, 0.92), rng=rng)
        shape = Ellipse(u, v, size, size * rng.uniform(0.8, 1.0), tilt=rng.uniform(0.0, 3.0))
        rough_HW = 0.13 * smooth_noise(scene.chest.shape, cells=24, rng=rng)
        depth_HW = 1.0 - scene.radius(shape) + rough_HW
        mass_HW = soft_step(depth_HW - 0.1, 0.35) * (0.75 + 0.25 * np.clip(depth_HW, 0.0, 1.0))
        scene.add_box("Nodule/Mass", mass_HW, threshold=0.35)
        scene.added_HW = scene.added_HW + (0.35 + 0.17 * strength) * mass_HW
        scene.occupy(soft_step(depth_HW + 0.3, 0.3))


def draw_calcification(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Draw a few small, dense, angular specks close together."""
    chest = scene.chest
    spread = rng.uniform(0.05, 0.09)
    u, v = scene.find_spot(radius=spread, down=(0.15, 0.85), rng=rng)
    ink = Ink(chest.shape)
    for _ in range(3 + round(2 * strength) + int(rng.integers(3))):
        centre = u + rng.normal(0.0, 0.6 * spread), v + rng.normal(0.0, 0.6 * spread)
        size = rng.uniform(0.024, 0.036) + 0.008 * strength
        ink.polygon(_angular(scene, centre=centre, size=size, rng=rng), level=rng.uniform(0.75, 1.0))
    specks_HW = ink.to_array()
    scene.add_box("Calcification", specks_HW, threshold=0.3)
    scene.added_HW = scene.added_HW + (0.7 + 0.25 * strength) * specks_HW
    scene.occupy(specks_HW)


def _angular(scene: Scene, *, centre: tuple[float, float], size: float, rng: np.random.Generator) -> Points:
    """Return the corners of an irregular polygon, in pixels."""
    turns = np.arange(7) * (2 * math.pi / 7) + rng.uniform(0.0, 1.0)
    radii = size * rng.uniform(0.6, 1.25, 7)
    return [
        scene.chest.to_pixel(centre[0] + r * math.cos(t), centre[1] + r * math.sin(t))
        for r, t in zip(radii.tolist(), turns.tolist())
    ]


def draw_ild(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Draw a net of fine lines over both lungs, densest at the bases."""
    chest, patient = scene.chest, scene.chest.patient
    ink = Ink(chest.shape)
    num_cells = round(260 + 200 * strength)
    down = 1.0 - rng.uniform(0.0, 1.0, num_cells) ** 1.4 * (0.65 + 0.25 * strength)
    for height in down.tolist():
        side = 1 if rng.random() < 0.5 else -1
        centre = chest.point(side, across=rng.uniform(0.05, 1.0), down=height)
        cell = _angular(scene, centre=centre, size=rng.uniform(0.03, 0.055), rng=rng)
        ink.line([*cell, cell[0]], width=0.011 * chest.pixels_per_unit, level=rng.uniform(0.5, 1.0))
    top = patient.apex + float(down.min()) * (patient.base - patient.apex)
    zone_HW = soft_step(chest.v_HW - top - 0.15, 0.5) * chest.lung_HW
    scene.markings_HW = scene.markings_HW + (0.18 + 0.1 * strength) * ink.to_array() * zone_HW
    scene.air_HW = scene.air_HW * (1.0 - 0.1 * zone_HW)
    for left in (False, True):
        scene.add_box("ILD", zone_HW * (chest.left_HW == left))
