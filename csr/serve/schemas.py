"""Everything that goes over the wire, described once: requests, answers, and with them the OpenAPI document.

Requests are checked by these models, and handlers return them. They are also what a session keeps: its edits
and results. The record is described in `csr.serve.records.schemas`.

Letters: K concepts, T targets (diagnoses), H W feature map. Boxes are fractions of the image, 0 to 1, from
its top left corner.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from csr.model.calibration import Method
from csr.model.interaction import ALPHA
from csr.serve.limits import MAX_BOXES

Decision = Literal["rejected", "confirmed"]
BoxKind = Literal["positive", "negative"]
Replacement = Literal["median", "zero"]
Action = Literal["open", "edit", "undo", "redo", "reset"]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class Schema(BaseModel):
    """An object without unknown keys that does not change; NaN is an error, as JSON would make it null."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Reason = Literal["unused", "kept", "room", "closed", "unknown", "place", "revision", "full"]


class Problem(Schema):
    """The reason for which a request was refused."""

    detail: str
    reason: Reason | None = Field(
        None,
        description="for programs: the image was forgotten (unused, kept for long, no room, closed, unknown "
        "to this server), no such place in the model, changed meanwhile (revision), or the record is full",
    )


class Box(Schema):
    """A region: look here (positive) or not here (negative)."""

    kind: BoxKind
    x_min: Fraction
    y_min: Fraction
    x_max: Fraction
    y_max: Fraction
    concept: str | None = Field(None, description="the one concept whose maps it changes; null: all")


class EditsIn(Schema):
    """All edits that are to be in force; what is omitted is not edited."""

    decisions: dict[str, Decision] = Field(
        default_factory=dict, description="by the name of the concept", max_length=100_000
    )
    boxes: list[Box] = Field(default_factory=list, max_length=MAX_BOXES)
    alpha: Fraction = Field(ALPHA, description="importance outside of all boxes")
    replacement: Replacement | None = Field(
        None,
        description="what rejected concepts and regions that do not count become; null: the model's default",
    )


class Edits(Schema):
    """The edits in force, all at once."""

    decisions: dict[str, Decision] = Field(description="by the name of the concept, in the model's order")
    boxes: list[Box] = Field(description="in the order in which they were drawn")
    alpha: float = Field(description="importance outside of all boxes")
    replacement: Replacement = Field(
        description="what the scores of rejected concepts become, and similarities outside of the boxes are "
        "drawn to. median: the median score over training images without the concept; a confirmed concept's "
        "scores are raised to the median over those with it. zero: as in the paper (Eqs. 12-13); confirming "
        "changes nothing"
    )


class ModelFacts(Schema):
    """Facts that are the same for all images."""

    name: str
    sha256: str = Field(description="of sizes, names, preprocessing, thresholds, medians and weights")
    concepts: list[str]
    targets: list[str]
    num_prototypes: int = Field(description="of each concept")
    one_diagnosis: bool = Field(description="exactly one diagnosis holds (softmax); else several may")
    replacements: list[Replacement]
    default_replacement: Replacement
    contributions_from: Literal["absent medians", "zero"] = Field(
        description="scores that contributions are counted from: of images without the concept, or 0"
    )
    zero_warning: str = Field(description="what replacement `zero` did to diagnoses, as far as measured")
    edit_warning: str = Field(
        description="edits that broke more than they fixed with replacement `median`; may be empty"
    )
    heartbeat_s: float = Field(description="how often a page says that it is open, so that images stay")
    notices: list[str] = Field(
        description="on labels whose numbers are no probabilities, on what the model cannot notice"
    )
    default_alpha: float
    has_atlas: bool
    max_bytes: int
    max_pixels: int
    max_boxes: int
    palette: list[list[int]] = Field(description="colours of maps, RGB, lowest value first")


class ImageFacts(Schema):
    """The image; height and width in pixels, as displayed. The pixels are not in it."""

    name: str
    sha256: str = Field(description="of the file")
    bytes: int
    height: int
    width: int


class MapSize(Schema):
    """The number of cells of all maps, and the square that they cover."""

    height: int
    width: int
    frame: list[float] = Field(
        description="x_min, y_min, x_max, y_max of the maps as fractions of the image: 0, 0, 1, 1 where the "
        "model sees the whole image; beyond it where black was added, within it where it was cropped"
    )


class Before(Schema):
    """A diagnosis without any edit."""

    probability: float
    logit: float
    present: bool


class Diagnosis(Schema):
    """A diagnosis under the edits; its logit is the base plus the contributions of all concepts."""

    name: str
    probability: float
    calibration: Method = Field(description="score: the number is no probability")
    logit: float
    base: float = Field(description="logit of an image without findings; the bias if there are no medians")
    bias: float
    threshold: float | None = Field(
        description="probability from which the model calls it; null where exactly one diagnosis holds"
    )
    present: bool = Field(description="the model calls it; where exactly one holds: it is the likeliest")
    before: Before


class Concept(Schema):
    """A concept under the edits; contributions have T entries, in the order of the model's targets.

    They are counted from the absent medians, see `ModelFacts.contributions_from`.
    """

    name: str
    probability: float
    calibration: Method
    threshold: float
    active: bool = Field(description="the probability reaches the threshold")
    best_prototype: int | None = Field(description="null: all its prototypes were dropped")
    similarity: float | None = Field(description="highest cosine of the best prototype, after the boxes")
    score: float | None = Field(description="what counts for it, after the decision on the concept too")
    peak: list[float] | None = Field(
        description="x, y of the highest cell of its map, fractions of the image; "
        "below 0 or above 1 in added black"
    )
    contribution: list[float]
    contribution_before: list[float] = Field(description="without any edit")


class BoxEvidence(Schema):
    """The highest similarity in a box, of unedited maps of concepts called or confirmed and not rejected."""

    peak: float
    concept: str
    prototype: int
    is_high: bool
    moved: float = Field(description="largest change of a probability if this box alone is left out")
    contradicts: bool = Field(description="look here, but no map is high; or not here, but one is")
    cells: list[int] = Field(
        description="first column, first row, last column, last row of the cells that it counts as, from 0: "
        "those with their centre in it, or the one below its middle"
    )


class Safety(Schema):
    """The largest change of a probability by the edits, and whether boxes contradict the maps."""

    moved: float
    regions_moved: float = Field(description="by the regions alone, beside the same decisions")
    flips: bool = Field(description="another diagnosis is the likeliest one")
    warn: bool = Field(description="the regions move a probability by more than 30 points")
    boxes: list[BoxEvidence]


class Result(Schema):
    """The diagnoses under edits, and what they rest on."""

    diagnoses: list[Diagnosis]
    gap: float = Field(description="between the two likeliest diagnoses")
    needs_doctor: bool
    doubt: str | None = Field(description="why a doctor should decide")
    novelty_note: str | None = Field(description="the image is unlike the training images, and in what")
    concepts: list[Concept]
    safety: Safety


class History(Schema):
    """The place of a session in its history, its image, and the edits in force."""

    session: str
    revision: int = Field(
        description="rises with every change; a change sent with `X-Revision` of an older one is refused"
    )
    step: int = Field(description="place in the history; undo and redo move it")
    num_steps: int = Field(description="actions in the record")
    can_undo: bool
    can_redo: bool
    image: ImageFacts
    map: MapSize
    edits: Edits


class State(Result, History):  # fields of the last base come first
    """The whole state of a session."""


class Prototype(Schema):
    """One prototype under the edits; T contributions."""

    prototype: int
    score: float
    absent_median: float | None
    weight: list[float]
    contribution: list[float] = Field(description="weight x (score - absent_median, or 0 if null)")


class Prototypes(Schema):
    """All prototypes of a concept that were not dropped."""

    concept: str
    if_rejected: list[float] | None = Field(
        description="how far each logit moves if the scores become their medians without the concept: "
        "minus the contribution"
    )
    prototypes: list[Prototype]


class Map(Schema):
    """A similarity map after the boxes, row by row: H x W values.

    It is coloured from the prototype's absent median (clear) to its present median (brightest); in a model
    without medians on one scale for the image.
    """

    concept: int
    prototype: int
    low: float = Field(description="clear at this similarity and below")
    high: float = Field(description="brightest at this similarity and above")
    values: list[float]


class Maps(Schema):
    """Maps of one size, in cells."""

    height: int
    width: int
    maps: list[Map]


class Region(Schema):
    """A training region near a prototype; box as x_min, y_min, x_max, y_max, fractions of its image."""

    image: str | None = Field(
        description="name of the file, without its folder; null unless the server shows ids of patients"
    )
    box: list[float]
    similarity: float
