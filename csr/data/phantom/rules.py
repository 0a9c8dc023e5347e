"""What a phantom patient has: findings from a deck, diagnoses that follow by rules with noise.

| diagnosis | rule on the true findings |
|---|---|
| COPD | Emphysema |
| Lung tumor | Nodule/Mass without Calcification (a nodule with calcium counts as benign) |
| Tuberculosis | Cavity, or Consolidation with Calcification |
| Pneumonia | Consolidation where the rule of Tuberculosis does not hold |
| Other disease | ILD, or Pneumothorax without Emphysema, or Cardiomegaly with Pleural effusion |
| No finding | no finding, and none of the labels above |

Aortic enlargement, Calcification, Cardiomegaly or Pleural effusion alone lead to no diagnosis.
Label noise: where a rule holds its label is 1 with probability 0.97, elsewhere with 0.003; the
`textbook` third of the cases has no noise. `No finding` always agrees with the rest of its row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

FINDINGS = (
    "Aortic enlargement",
    "Calcification",
    "Cardiomegaly",
    "Cavity",
    "Consolidation",
    "Emphysema",
    "ILD",
    "Nodule/Mass",
    "Pleural effusion",
    "Pneumothorax",
)
DIAGNOSES = (
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other disease",
    "No finding",
)
SPLITS = ("train", "test")

SENSITIVITY = 0.97
FALSE_LABEL = 0.003
EXTRA_FINDING = 0.04

# Each hand of ten holds every finding, so that few images suffice to meet all of them; the first
# hand also leads to every diagnosis.
DECK: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        (),
        (),
        ("Aortic enlargement",),
        ("Calcification", "Cavity"),
        ("Cardiomegaly", "Pleural effusion"),
        ("Consolidation",),
        ("Emphysema", "Pneumothorax"),
        ("ILD",),
        ("Nodule/Mass",),
        ("Pneumothorax",),
    ),
    (
        (),
        (),
        ("Aortic enlargement", "Calcification"),
        ("Cardiomegaly",),
        ("Cavity",),
        ("Consolidation",),
        ("Emphysema",),
        ("ILD",),
        ("Nodule/Mass", "Pleural effusion"),
        ("Pneumothorax",),
    ),
    (
        (),
        ("Aortic enlargement", "Cardiomegaly"),
        ("Calcification",),
        ("Calcification", "Nodule/Mass"),
        ("Cavity",),
        ("Consolidation", "Pleural effusion"),
        ("Emphysema",),
        ("ILD",),
        ("Nodule/Mass",),
        ("Pleural effusion", "Pneumothorax"),
    ),
)


@dataclass(frozen=True)
class Plan:
    """What one patient truly has.

    Attributes:
        strengths: finding -> 0 (barely there) to 1 (plain), in the order of `FINDINGS`.
        diagnoses: the labels that are 1, in the order of `DIAGNOSES`.
        textbook: whether the case has no incidental findings and no label noise.
    """

    strengths: dict[str, float]
    diagnoses: tuple[str, ...]
    textbook: bool

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings that are present, in the order of `FINDINGS`."""
        return tuple(self.strengths)


def rng_for(seed: int, split: str, *keys: int) -> np.random.Generator:
    """Return a generator that depends on the seed, the split and the keys, and on nothing drawn before."""
    return np.random.default_rng([seed, SPLITS.index(split), *keys])


def plan_case(seed: int, *, split: str, index: int) -> Plan:
    """Deal the findings of image `index` of a split and derive its diagnoses.

    Args:
        seed: seed of the whole data set, 0 or more.
        split: `train` or `test`.
        index: position in the split, from 0; the plan depends on no other image.
    """
    hand_size = len(DECK[0])
    deck, position = divmod(index, hand_size * len(DECK))
    hand, place = divmod(position, hand_size)
    order = rng_for(seed, split, 0, deck, hand).permutation(hand_size)
    card = DECK[hand][order[place]]
    rng = rng_for(seed, split, 1, index)
    extra = rng.random(len(FINDINGS)) < EXTRA_FINDING
    strength = rng.random(len(FINDINGS))
    textbook = hand == 0
    if textbook or not card:
        extra[:] = False
    strengths = {name: float(strength[i]) for i, name in enumerate(FINDINGS) if name in card or extra[i]}
    diagnoses = label(strengths, noise=None if textbook else rng)
    return Plan(strengths=strengths, diagnoses=diagnoses, textbook=textbook)


def apply_rules(findings: Collection[str]) -> dict[str, bool]:
    """Say for each diagnosis but `No finding` whether its rule holds, see the table above."""
    has = {name: name in findings for name in FINDINGS}
    tuberculosis = has["Cavity"] or (has["Consolidation"] and has["Calcification"])
    return {
        "COPD": has["Emphysema"],
        "Lung tumor": has["Nodule/Mass"] and not has["Calcification"],
        "Pneumonia": has["Consolidation"] and not tuberculosis,
        "Tuberculosis": tuberculosis,
        "Other disease": has["ILD"]
        or (has["Pneumothorax"] and not has["Emphysema"])
        or (has["Cardiomegaly"] and has["Pleural effusion"]),
    }


def label(findings: Collection[str], *, noise: np.random.Generator | None) -> tuple[str, ...]:
    """Return the diagnoses of a patient with these findings, in the order of `DIAGNOSES`.

    Args:
        findings: names out of `FINDINGS`.
        noise: generator of the label noise; None for none.
    """
    holds = apply_rules(findings)
    if noise is not None:
        chance = noise.random(len(holds))
        holds = {
            name: bool(chance[i] < (SENSITIVITY if true else FALSE_LABEL))
            for i, (name, true) in enumerate(holds.items())
        }
    named = tuple(name for name in DIAGNOSES if holds.get(name, False))
    return named if named or findings else ("No finding",)
