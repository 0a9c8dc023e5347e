"""The card of a trained model: names, preprocessing, decision rule, thresholds and origin beside the weights.

Letters: B batch, K concepts, M prototypes per concept, T targets.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from csr.data.transforms import stored_size
from csr.model.calibration import MIN_POSITIVES, Calibration, calibrated_logits
from csr.model.doubt import NO_DOUBT_RULE
from csr.model.novelty import NO_NOVELTY
from csr.model.sharing.preprocessing import Preprocessing, read_preprocessing
from csr.model.sharing.reference import DEFAULT_THRESHOLD, Reference, reference_from_dict
from csr.runtime.errors import InputError

TASK_LOSSES = ("bce", "focal", "ce")
MAX_NAME = 200


def target_probability(logit_BT: torch.Tensor, *, task_loss: str) -> torch.Tensor:
    """Return the probabilities of the diagnoses as the task loss means them, uncalibrated.

    Args:
        logit_BT: logits, (..., T).
        task_loss: `ce`: exactly one diagnosis holds (softmax); else any number may (sigmoids).

    Returns:
        probability_BT, 0 to 1, of the same shape.
    """
    return logit_BT.softmax(dim=-1) if task_loss == "ce" else logit_BT.sigmoid()


@dataclass(frozen=True, eq=False)
class Card:
    """Everything that belongs to the weights.

    Attributes:
        concept_names, target_names: in the order of the model's outputs.
        preprocessing: of images.
        task_loss: `bce` or `focal` (several diagnoses may hold), or `ce` (exactly one does).
        reference: thresholds and medians, as far as they were measured.
        method, data, metrics, provenance: plain JSON for the reader; nothing is computed from it.
    """

    concept_names: tuple[str, ...]
    target_names: tuple[str, ...]
    preprocessing: Preprocessing
    task_loss: str = "bce"
    reference: Reference = Reference()
    method: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def exactly_one(self) -> bool:
        """True if exactly one diagnosis holds: then the likeliest is called, whatever its threshold."""
        return self.task_loss == "ce"

    @property
    def concept_threshold_K(self) -> torch.Tensor:
        """Probabilities from which concepts are called, (K,); 0.5 where no validation images chose them."""
        chosen = self.reference.concept_threshold_K
        return torch.full((len(self.concept_names),), DEFAULT_THRESHOLD) if chosen is None else chosen

    @property
    def target_threshold_T(self) -> torch.Tensor:
        """Probabilities from which diagnoses are called, (T,); 0.5 where no validation images chose them."""
        chosen = self.reference.target_threshold_T
        return torch.full((len(self.target_names),), DEFAULT_THRESHOLD) if chosen is None else chosen

    def probability(self, logit_BT: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the diagnoses, (..., T), calibrated as far as they could be."""
        calibrated_BT = calibrated_logits(logit_BT, self.reference.target_calibration_T)
        return target_probability(calibrated_BT, task_loss=self.task_loss)

    def concept_probability(self, logit_BK: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the concepts, (..., K), calibrated as far as they could be."""
        return calibrated_logits(logit_BK, self.reference.concept_calibration_K).sigmoid()

    @property
    def target_calibration_T(self) -> tuple[Calibration, ...]:
        """How each diagnosis is calibrated; `score` for all where no validation images showed it."""
        return self.reference.target_calibration_T or (Calibration(),) * len(self.target_names)

    @property
    def concept_calibration_K(self) -> tuple[Calibration, ...]:
        """How each concept is calibrated; `score` for all where no validation images showed it."""
        return self.reference.concept_calibration_K or (Calibration(),) * len(self.concept_names)

    def scores_notice(self, *, has_concepts: bool = True) -> str | None:
        """Return a line that names the labels whose numbers are no probabilities; None without any.

        Args:
            has_concepts: False for a model that sees no concepts, whose names are in its table alone.
        """
        pairs = list(zip(self.target_names, self.target_calibration_T, strict=True))
        if has_concepts:
            pairs += zip(self.concept_names, self.concept_calibration_K, strict=True)
        scores = [name for name, one in pairs if not one.is_probability]
        if not scores:
            return None
        if len(scores) == len(pairs):
            return (
                "The model was not calibrated on validation images: its numbers are scores, no probabilities."
            )
        return (
            f"Scores, no probabilities (fewer than {MIN_POSITIVES} positive or negative validation images): "
            f"{', '.join(scores)}."
        )

    def notices(self, *, has_concepts: bool = True, has_prototypes: bool = True) -> list[str]:
        """Return the lines that readers of its numbers need: on scores, and on what it cannot notice.

        Args:
            has_concepts: see `scores_notice`.
            has_prototypes: False for a baseline, which never notices images unlike its training images.
        """
        lines = [self.scores_notice(has_concepts=has_concepts)]
        if has_prototypes and self.reference.novelty is None:
            lines.append(NO_NOVELTY)
        if self.reference.doubt is None:
            lines.append(NO_DOUBT_RULE)
        return [line for line in lines if line is not None]

    def called(self, probability_BT: torch.Tensor) -> torch.Tensor:
        """Return which diagnoses the model calls.

        Args:
            probability_BT: of the diagnoses, (..., T).

        Returns:
            bool, of the same shape: the likeliest (all of them in a tie) if exactly one diagnosis holds, else
            every one that reaches its threshold.
        """
        if self.exactly_one:
            return probability_BT == probability_BT.amax(dim=-1, keepdim=True)
        return probability_BT >= self.target_threshold_T.to(probability_BT)

    def called_concepts(self, probability_BK: torch.Tensor) -> torch.Tensor:
        """Return which concepts reach their threshold, bool, for probabilities (..., K)."""
        return probability_BK >= self.concept_threshold_K.to(probability_BK)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON that `card_from_dict` reads; thresholds and medians by name."""
        return {
            "concept_names": list(self.concept_names),
            "target_names": list(self.target_names),
            "preprocessing": self.preprocessing.to_dict(),
            "task_loss": self.task_loss,
            "reference": self.reference.to_dict(
                concept_names=self.concept_names, target_names=self.target_names
            ),
            **{name: getattr(self, name) for name in _NOTES},
        }


_NOTES = ("method", "data", "metrics", "provenance")


def plain_card(num_concepts: int, num_classes: int, *, image_size: int) -> Card:
    """Return a card with numbered names, for a model that was given none."""
    return Card(
        tuple(f"concept {k}" for k in range(num_concepts)),
        tuple(f"target {t}" for t in range(num_classes)),
        Preprocessing(image_size, stored_size(image_size)),
    )


def card_from_dict(value: dict[str, Any], *, num_prototypes: int, where: str) -> Card:
    """Read and check what `Card.to_dict` wrote; other keys are ignored.

    Args:
        value: parsed JSON.
        num_prototypes: M of the model, for the medians.
        where: the file, for messages.

    Returns:
        The card.

    Raises:
        InputError: a key is missing or holds what no model could use.
    """
    missing = [k for k in ("concept_names", "target_names", "preprocessing", "task_loss") if k not in value]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing")
    concepts = _names(value["concept_names"], f"{where}: concept_names")
    targets = _names(value["target_names"], f"{where}: target_names")
    if value["task_loss"] not in TASK_LOSSES:
        shown = str(value["task_loss"])[:40]
        raise InputError(f"{where}: task_loss {shown!r}: one of {', '.join(TASK_LOSSES)}")
    notes = {name: value.get(name) or {} for name in _NOTES}
    wrong = [name for name, note in notes.items() if not isinstance(note, dict)]
    if wrong:
        raise InputError(f"{where}: {', '.join(wrong)} must be a JSON object")
    reference = reference_from_dict(
        value.get("reference") or {},
        concept_names=concepts,
        target_names=targets,
        num_prototypes=num_prototypes,
        where=where,
    )
    preprocessing = read_preprocessing(value["preprocessing"], where)
    return Card(concepts, targets, preprocessing, value["task_loss"], reference, **notes)


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise InputError(f"{where}: not a list of names")
    bad = [n for n in value if not n.strip() or len(n) > MAX_NAME or _has_control(n)]
    if bad or len(set(value)) != len(value):
        raise InputError(
            f"{where}: {len(bad)} names are empty, longer than {MAX_NAME} or hold control characters, "
            f"{len(value) - len(set(value))} are repeated"
        )
    return tuple(value)


def _has_control(name: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in name)


def check_counts(card: Card, *, sizes: Sequence[int], image_size: int, where: str) -> None:
    """Raise InputError unless the card names as many concepts and targets as the model has."""
    named = (len(card.concept_names), len(card.target_names))
    if named != tuple(sizes):
        raise InputError(
            f"{where}: names {named[0]} concepts and {named[1]} targets, "
            f"the model has {sizes[0]} and {sizes[1]}"
        )
    if card.preprocessing.image_size != image_size:
        raise InputError(
            f"{where}: preprocessing makes {card.preprocessing.image_size} px images, "
            f"the model takes {image_size} px"
        )


def check_novelty(card: Card, *, channels: Any, where: str) -> None:
    """Raise InputError unless the statistics of training images are of a backbone with as many channels."""
    novelty = card.reference.novelty
    if novelty is not None and novelty.num_channels != channels:
        raise InputError(
            f"{where}: novelty is of {novelty.num_channels} channels, the backbone has {channels}"
        )
