"""One state of a doctor's edits of one image: what is sent, kept, undone and recorded.

Letters: K concepts, R boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from csr.model.interaction import ALPHA, CONFIRMED, REJECTED, UNTOUCHED, Edits, make_edits

ZERO, MEDIAN = "zero", "median"
POSITIVE, NEGATIVE = "positive", "negative"
DECISIONS = {"rejected": REJECTED, "confirmed": CONFIRMED}
_WORD_OF = {number: word for word, number in DECISIONS.items()}


@dataclass(frozen=True)
class Box:
    """A region; `corners` are x_min, y_min, x_max, y_max, fractions of the image."""

    corners: tuple[float, float, float, float]
    is_positive: bool

    def to_dict(self) -> dict[str, Any]:
        x_min, y_min, x_max, y_max = self.corners
        kind = POSITIVE if self.is_positive else NEGATIVE
        return {"kind": kind, "x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max}


@dataclass(frozen=True)
class EditSet:
    """All edits in force at once.

    Attributes:
        decision_K: `csr.model.interaction`'s REJECTED, UNTOUCHED or CONFIRMED.
        boxes: in the order they were drawn.
        alpha: importance outside of all boxes.
        replacement: what a rejected concept's scores become and similarities outside of the boxes are drawn
            to: `median` (its median over training images without it; a confirmed concept's are raised to its
            median with it) or `zero` (the paper's, Eqs. 12-13; confirming changes nothing).
    """

    decision_K: tuple[int, ...]
    boxes: tuple[Box, ...] = ()
    alpha: float = ALPHA
    replacement: str = ZERO

    @classmethod
    def none(cls, num_concepts: int, *, replacement: str) -> EditSet:
        return cls((UNTOUCHED,) * num_concepts, replacement=replacement)

    def tensors(self, device: torch.device) -> Edits:
        """For `csr.model.interaction`, a batch of one image.

        Raises:
            ValueError: what a box, a decision or alpha says means nothing.
        """
        decision_BK = torch.tensor([self.decision_K], dtype=torch.int64, device=device)
        box_R4 = torch.tensor([box.corners for box in self.boxes]).view(-1, 4)
        positive_R = torch.tensor([box.is_positive for box in self.boxes], dtype=torch.bool)
        return make_edits(decision_BK, box_R4=box_R4, positive_R=positive_R, alpha=self.alpha)

    def to_dict(self, concept_names: tuple[str, ...]) -> dict[str, Any]:
        """Plain JSON, by name."""
        decided = zip(concept_names, self.decision_K, strict=True)
        return {
            "decisions": {name: _WORD_OF[value] for name, value in decided if value != UNTOUCHED},
            "boxes": [box.to_dict() for box in self.boxes],
            "alpha": self.alpha,
            "replacement": self.replacement,
        }
