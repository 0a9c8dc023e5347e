"""Three readers who see the same picture and disagree.

A reader overlooks a finding the more easily the weaker it is drawn, and less easily where it is the
only one (a second finding is missed once the first is found). False alarms are rare. Each reader's
diagnoses follow from what that reader saw; one who saw nothing in the picture of an ill patient is
mostly in doubt and then does not write `No finding`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csr.data.phantom.rules import DIAGNOSES, FINDINGS, Plan, apply_rules

READERS = ("R1", "R2", "R3")
CARELESSNESS = (0.7, 1.0, 1.3)
MISS_WEAK, MISS_PLAIN = 0.20, 0.03
FALSE_ALARM = 0.002
DOUBT = 0.75

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Reading:
    """One reader's row: findings and diagnoses that are 1, and (finding, x0, y0, x1, y1) boxes."""

    rad_id: str
    findings: tuple[str, ...]
    diagnoses: tuple[str, ...]
    boxes: tuple[tuple[str, Box], ...]


def read_case(
    plan: Plan,
    *,
    boxes: tuple[tuple[str, Box], ...],
    width: int,
    height: int,
    rng: np.random.Generator,
) -> list[Reading]:
    """Return what each of the three readers writes about one picture.

    Args:
        plan: what the patient truly has.
        boxes: (finding, (x_min, y_min, x_max, y_max)) in pixels, the truth.
        width: of the picture, pixels; jittered boxes stay inside.
        height: of the picture, pixels.
        rng: generator of this picture's readers.
    """
    readings = []
    for rad_id, carelessness in zip(READERS, CARELESSNESS):
        seen = _look(plan, carelessness=carelessness, rng=rng)
        drawn = [
            (name, _jitter(box, width=width, height=height, rng=rng)) for name, box in boxes if name in seen
        ]
        drawn += [
            (name, _imagine_box(width=width, height=height, rng=rng))
            for name in seen
            if name not in plan.strengths
        ]
        diagnoses = _diagnose(plan, seen=seen, in_doubt=bool(rng.random() < DOUBT))
        readings.append(Reading(rad_id, seen, diagnoses, tuple(drawn)))
    return readings


def _look(plan: Plan, *, carelessness: float, rng: np.random.Generator) -> tuple[str, ...]:
    chance = rng.random(len(FINDINGS))
    alone = 0.5 if len(plan.strengths) == 1 else 1.0
    seen = []
    for name, draw in zip(FINDINGS, chance):
        if name in plan.strengths:
            miss = MISS_WEAK + (MISS_PLAIN - MISS_WEAK) * plan.strengths[name]
            present = draw >= miss * alone * carelessness
        else:
            present = draw < FALSE_ALARM * carelessness
        if present:
            seen.append(name)
    return tuple(seen)


def _diagnose(plan: Plan, *, seen: tuple[str, ...], in_doubt: bool) -> tuple[str, ...]:
    """Keep the true labels except where what was seen changes a rule's outcome."""
    true_rules, seen_rules = apply_rules(plan.strengths), apply_rules(seen)
    named = tuple(
        name
        for name in DIAGNOSES[:-1]
        if (seen_rules[name] if seen_rules[name] != true_rules[name] else name in plan.diagnoses)
    )
    if named or seen or (plan.strengths and in_doubt):
        return named
    return ("No finding",)


def _jitter(box: Box, *, width: int, height: int, rng: np.random.Generator) -> Box:
    shift = np.clip(rng.normal(0.0, 0.05, 4), -0.12, 0.12)
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    return _inside(np.array(box) + shift * sides, width=width, height=height)


def _imagine_box(*, width: int, height: int, rng: np.random.Generator) -> Box:
    side = width / 2 * int(rng.integers(2))
    x0, y0 = side + rng.uniform(0.1, 0.25) * width, rng.uniform(0.2, 0.6) * height
    x1, y1 = x0 + rng.uniform(0.06, 0.2) * width, y0 + rng.uniform(0.06, 0.2) * height
    return _inside(np.array([x0, y0, x1, y1]), width=width, height=height)


def _inside(corners: np.ndarray, *, width: int, height: int) -> Box:
    """Round to tenths of a pixel inside the picture, at least one pixel wide and high."""
    limit = np.array([width, height, width, height], dtype=float)
    x0, y0, x1, y1 = np.clip(corners, 0.0, limit)
    x0, y0 = min(x0, width - 1.0), min(y0, height - 1.0)
    x1, y1 = max(x1, x0 + 1.0), max(y1, y0 + 1.0)
    return (round(x0, 1), round(y0, 1), round(x1, 1), round(y1, 1))
