"""From density to what a viewer shows: exposure, tone, scatter, marker, noise.

Suffix letters: H W picture. None of it depends on what the patient has.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from csr.data.phantom.patient import Patient
from csr.data.phantom.shapes import Ink, smooth_noise


def expose(density_HW: np.ndarray, patient: Patient, *, rng: np.random.Generator) -> np.ndarray:
    """Return the displayed picture, (H, W) float32, 0 (black, air) to 1 (white).

    Args:
        density_HW: what the ray meets.
        patient: exposure, tone, fog and grain are used.
        rng: generator of this picture.
    """
    shape = density_HW.shape[0], density_HW.shape[1]
    heel_HW = 1.0 + 0.04 * smooth_noise(shape, cells=4, rng=rng)
    image_HW = 1.0 - np.exp(-patient.gain * heel_HW * density_HW)
    image_HW = patient.fog + (1.0 - patient.fog) * np.clip(image_HW * 1.12, 0.0, 1.0)
    image_HW = np.power(image_HW, np.float32(patient.gamma))
    image_HW = np.maximum(image_HW, _draw_marker(shape, rng=rng))
    return np.clip(image_HW + _build_grain(shape, patient=patient, rng=rng), 0.0, 1.0)


def _build_grain(shape: tuple[int, int], *, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """Build film grain: fine noise plus a coarser share, as a detector's blur leaves it."""
    height, width = shape
    fine_HW = rng.standard_normal(shape, dtype=np.float32)
    coarse = rng.standard_normal((height // 2 + 1, width // 2 + 1), dtype=np.float32)
    coarse_HW = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    return np.float32(patient.grain) * (np.float32(0.7) * fine_HW + coarse_HW)


def _draw_marker(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """Draw the technician's side letter, an L at the patient's left shoulder, in most pictures."""
    ink = Ink(shape)
    x, y = shape[1] * rng.uniform(0.88, 0.94), shape[0] * rng.uniform(0.03, 0.12)
    size = shape[0] * rng.uniform(0.025, 0.04)
    if rng.random() < 0.7:
        ink.line([(x, y), (x, y + size), (x + 0.6 * size, y + size)], width=size / 5, level=0.95)
    return ink.to_array()
