"""Draw one synthetic radiograph with what its plan says. Suffix letters: H W picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csr.data.phantom import findings, lesions
from csr.data.phantom.anatomy import Chest
from csr.data.phantom.exposure import expose
from csr.data.phantom.patient import sample_patient
from csr.data.phantom.rules import Plan, plan_case, rng_for
from csr.data.phantom.scene import Box, Scene

# In the order drawn: what takes lung away comes first, so that lesions find a place to show.
PAINTERS = {
    "Cardiomegaly": findings.draw_cardiomegaly,
    "Aortic enlargement": findings.draw_aortic_enlargement,
    "Emphysema": findings.draw_emphysema,
    "Pleural effusion": findings.draw_pleural_effusion,
    "Pneumothorax": findings.draw_pneumothorax,
    "Consolidation": lesions.draw_consolidation,
    "Cavity": lesions.draw_cavity,
    "Nodule/Mass": lesions.draw_nodule,
    "Calcification": lesions.draw_calcification,
    "ILD": lesions.draw_ild,
}
NARROW = 0.9


@dataclass(frozen=True)
class Case:
    """One drawn patient.

    Attributes:
        plan: findings and diagnoses, the truth.
        image_HW: float32, 0 (black) to 1 (white), what a viewer shows.
        boxes: (finding, (x_min, y_min, x_max, y_max)) in pixels, the truth.
    """

    plan: Plan
    image_HW: np.ndarray
    boxes: tuple[tuple[str, Box], ...]


def draw_case(seed: int, *, split: str, index: int, size: int) -> Case:
    """Draw image `index` of a split; it depends on the four arguments and on no other image.

    Args:
        seed: seed of the whole data set, 0 or more.
        split: `train` or `test`.
        index: position in the split, from 0.
        size: height in pixels; half of the pictures are a tenth narrower than high.
    """
    plan = plan_case(seed, split=split, index=index)
    rng = rng_for(seed, split, 2, index)
    width = size if rng.random() < 0.5 else round(NARROW * size)
    patient = sample_patient(plan.strengths, rng=rng)
    scene = Scene(Chest(patient, shape=(size, width)), rng=rng)
    for name, paint in PAINTERS.items():
        if name in plan.strengths:
            paint(scene, plan.strengths[name], rng)
    image_HW = expose(scene.density(), patient, rng=rng)
    return Case(plan=plan, image_HW=image_HW.astype(np.float32, copy=False), boxes=tuple(scene.boxes))
