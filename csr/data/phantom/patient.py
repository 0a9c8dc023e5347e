"""The numbers that make one patient different from the next, sampled before anything is drawn.

Chest units: u runs across (0 = midline, positive = the patient's left, right in the picture), v
down (0 = between the hila). The inner chest reaches to about u = 0.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

UNITS_PER_HEIGHT = 2.35


@dataclass(frozen=True)
class Patient:
    """Pose, build and exposure of one picture.

    Attributes:
        tilt: rotation of the body, radians.
        zoom: chest units are drawn this much larger.
        shift_u, shift_v: where the chest's centre lies, chest units.
        chest: inner half width of the chest at its widest.
        apex, base: v of the lungs' upper ends and of the right dome's level.
        dome: height of the diaphragm's domes.
        left_drop: how much lower the left dome is.
        heart_ratio: cardiothoracic ratio.
        heart_shift: how far the heart's centre lies to the patient's left.
        knob: radius of the aortic knob.
        unfold: how far the descending aorta stands out of the mediastinum.
        aeration: how dark the lungs are, 1 is usual.
        markings: strength of the vessels.
        rib_spacing, rib_curve, rib_phase, rib_level: the ribs.
        bulk: thickness of soft tissue, 1 is usual.
        breast: strength of breast shadows, often 0.
        gain, gamma, fog, grain: exposure, tone, scatter and noise.
    """

    tilt: float
    zoom: float
    shift_u: float
    shift_v: float
    chest: float
    apex: float
    base: float
    dome: float
    left_drop: float
    heart_ratio: float
    heart_shift: float
    knob: float
    unfold: float
    aeration: float
    markings: float
    rib_spacing: float
    rib_curve: float
    rib_phase: float
    rib_level: float
    bulk: float
    breast: float
    gain: float
    gamma: float
    fog: float
    grain: float


def sample_patient(strengths: Mapping[str, float], *, rng: np.random.Generator) -> Patient:
    """Draw a patient; findings that are a matter of size or shape act here, the others when drawn.

    Args:
        strengths: finding -> 0 to 1, see `rules.Plan`.
        rng: generator of this picture.
    """
    uniform = rng.uniform
    return Patient(
        tilt=uniform(-0.06, 0.06),
        zoom=uniform(0.92, 1.06),
        shift_u=uniform(-0.06, 0.06),
        shift_v=uniform(0.02, 0.16),
        chest=uniform(0.86, 0.98),
        apex=uniform(-0.98, -0.9),
        rib_spacing=uniform(0.175, 0.205),
        rib_curve=uniform(0.4, 0.6),
        rib_phase=uniform(0.0, 1.0),
        rib_level=uniform(0.8, 1.25),
        bulk=uniform(0.85, 1.2),
        breast=uniform(0.3, 1.0) if rng.random() < 0.4 else 0.0,
        gain=uniform(0.9, 1.2),
        gamma=uniform(0.8, 1.2),
        fog=uniform(0.0, 0.06),
        grain=uniform(0.008, 0.022),
        **_sample_heart(strengths, rng),
        **_sample_aorta(strengths, rng),
        **_sample_breath(strengths, rng),
    )


def _sample_heart(strengths: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    ratio = rng.uniform(0.38, 0.475)
    if "Cardiomegaly" in strengths:
        ratio = 0.555 + 0.12 * strengths["Cardiomegaly"]
    elif "Emphysema" in strengths:
        ratio -= 0.03
    return {"heart_ratio": ratio, "heart_shift": rng.uniform(0.1, 0.15)}


def _sample_aorta(strengths: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    knob, unfold = rng.uniform(0.075, 0.1), 0.0
    if "Aortic enlargement" in strengths:
        knob = 0.145 + 0.06 * strengths["Aortic enlargement"]
        unfold = 0.06 + 0.08 * strengths["Aortic enlargement"]
    return {"knob": knob, "unfold": unfold}


def _sample_breath(strengths: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    """Sample the depth of breath: a deep one looks a little like emphysema, low domes and dark lungs."""
    base, dome = rng.uniform(0.56, 0.68), rng.uniform(0.15, 0.23)
    aeration, markings = rng.uniform(0.94, 1.04), rng.uniform(0.8, 1.2)
    if "Emphysema" in strengths:
        strength = strengths["Emphysema"]
        base += 0.12 + 0.08 * strength
        dome = 0.075 - 0.055 * strength + rng.uniform(0.0, 0.02)
        aeration += 0.05 + 0.05 * strength
        markings *= 0.7 - 0.2 * strength
    drop = rng.uniform(0.02, 0.07)
    return {
        "base": base,
        "dome": dome,
        "left_drop": drop,
        "aeration": aeration,
        "markings": markings,
    }
