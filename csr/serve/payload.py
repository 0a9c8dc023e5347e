"""What a client may send, checked before anything is computed of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from csr.model.interaction import ALPHA, UNTOUCHED
from csr.runtime.errors import InputError
from csr.serve.edits import DECISIONS, MEDIAN, POSITIVE, Box, EditSet
from csr.serve.limits import MAX_BOXES

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class Strict(BaseModel):
    """An object without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid")


class BoxIn(Strict):
    """A region, fractions of the image from its top left corner."""

    kind: Literal["positive", "negative"]
    x_min: Fraction
    y_min: Fraction
    x_max: Fraction
    y_max: Fraction


class EditsIn(Strict):
    """All edits that are to be in force; what is left out is not edited."""

    decisions: dict[str, Literal["rejected", "confirmed"]] = Field(
        default_factory=dict, description="by the name of the concept", max_length=100_000
    )
    boxes: list[BoxIn] = Field(default_factory=list, max_length=MAX_BOXES)
    alpha: Fraction = Field(ALPHA, description="importance outside of all boxes")
    replacement: Literal["median", "zero"] | None = Field(
        None,
        description="what rejected concepts and regions that do not count become; none: the model's default",
    )

    def edit_set(self, concept_names: tuple[str, ...], *, default: str) -> EditSet:
        """As the service wants it.

        Raises:
            InputError: a concept that the model does not have, or medians that were not measured.
        """
        unknown = [name for name in self.decisions if name not in concept_names]
        if unknown:
            raise InputError(f"{len(unknown)} decisions are on concepts that the model does not have")
        replacement = self.replacement or default
        if replacement == MEDIAN and default != MEDIAN:
            raise InputError("replacement 'median': the medians of this model were not measured")
        decision_K = tuple(
            DECISIONS[self.decisions[name]] if name in self.decisions else UNTOUCHED for name in concept_names
        )
        boxes = tuple(Box((b.x_min, b.y_min, b.x_max, b.y_max), b.kind == POSITIVE) for b in self.boxes)
        return EditSet(decision_K, boxes, self.alpha, replacement)
