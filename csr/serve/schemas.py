"""What the server answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class ModelOut(BaseModel):
    """What stays the same for all images."""

    name: str
    sha256: str = Field(description="of sizes, names, preprocessing, thresholds, medians and weights")
    concepts: list[str]
    targets: list[str]
    num_prototypes: int
    one_diagnosis: bool = Field(description="exactly one diagnosis holds (softmax); else several may")
    replacements: list[str]
    default_replacement: str
    default_alpha: float
    doctor_gap: float = Field(description="two likeliest diagnoses closer than this: ask a doctor")
    has_atlas: bool
    max_bytes: int
    max_pixels: int
    max_boxes: int
    palette: list[list[int]] = Field(description="colours of maps, RGB, lowest value first")


class ImageOut(BaseModel):
    """The image; height and width in pixels, as displayed."""

    name: str
    sha256: str
    bytes: int
    height: int
    width: int


class MapScale(BaseModel):
    """Cells of all maps, and the similarities at the ends of the colour scale."""

    height: int
    width: int
    low: float
    high: float


class BoxOut(BaseModel):
    """A box in force."""

    kind: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float


class EditsOut(BaseModel):
    """The edits in force."""

    decisions: dict[str, str]
    boxes: list[BoxOut]
    alpha: float
    replacement: str


class Before(BaseModel):
    """A diagnosis without any edit."""

    probability: float
    logit: float
    present: bool


class Diagnosis(BaseModel):
    """A diagnosis under the edits; its logit is the bias plus the contributions of all concepts."""

    name: str
    probability: float
    logit: float
    bias: float
    threshold: float
    present: bool
    before: Before


class Concept(BaseModel):
    """A concept; contributions in the order of the model's targets."""

    name: str
    probability: float
    threshold: float
    active: bool
    best_prototype: int | None = Field(description="none: all its prototypes were dropped")
    similarity: float | None = Field(description="highest cosine of the best prototype, after the boxes")
    score: float | None = Field(description="what counts for it, after the decision on the concept too")
    peak: list[float] | None = Field(description="x, y of the highest cell of its map, fractions")
    contribution: list[float]
    contribution_before: list[float]


class BoxEvidence(BaseModel):
    """What the unedited maps have in a box."""

    peak: float
    concept: str
    prototype: int
    is_high: bool
    contradicts: bool


class Safety(BaseModel):
    """How far the edits move a probability, and whether boxes contradict the maps."""

    moved: float
    flips: bool
    warn: bool
    boxes: list[BoxEvidence]


class Result(BaseModel):
    """A diagnosis under edits."""

    diagnoses: list[Diagnosis]
    gap: float
    needs_doctor: bool
    concepts: list[Concept]
    safety: Safety


class State(Result):
    """A session as it is."""

    model_config = ConfigDict(extra="forbid")

    session: str
    step: int = Field(description="place in the history; undo and redo move it")
    num_steps: int = Field(description="actions in the record")
    can_undo: bool
    can_redo: bool
    image: ImageOut
    map: MapScale
    edits: EditsOut


class Prototype(BaseModel):
    """One prototype under the edits."""

    prototype: int
    score: float
    contribution: list[float]


class Prototypes(BaseModel):
    """All prototypes of a concept that were not dropped."""

    concept: str
    if_rejected: list[float] | None = Field(
        description="how far each logit moves if the scores become their medians without the concept"
    )
    prototypes: list[Prototype]


class Map(BaseModel):
    """A similarity map after the boxes, row by row."""

    concept: int
    prototype: int
    values: list[float]


class Maps(BaseModel):
    """Maps of one size."""

    height: int
    width: int
    maps: list[Map]


class Region(BaseModel):
    """A training region near a prototype; box in fractions of its image."""

    image: str
    box: list[float]
    similarity: float


class Step(BaseModel):
    """One action, the edits in force after it, and their result."""

    time: str
    action: Literal["open", "edit", "undo", "redo", "reset"]
    edits: EditsOut
    result: Result


class ModelName(BaseModel):
    """Which model."""

    name: str
    sha256: str


class Record(BaseModel):
    """The record of a session."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["csr-session"]
    format_version: int
    csr_version: str
    torch_version: str
    model: ModelName
    image: ImageOut
    opened: str
    downloaded: str
    concepts: list[str]
    targets: list[str]
    steps: list[Step]
