"""The record on the wire: as it is downloaded, and what is read of one that comes back.

A record that comes back is a file of anybody's: sizes, types, names and numbers are checked here, what must
fit the model and the image in `replay`. What is not needed to replay it is passed over.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from csr.serve.limits import MAX_READER, MAX_STEPS, MAX_TEXT
from csr.serve.schemas import Action, Edits, EditsIn, Fraction, ImageFacts, Result, Schema, State

FORMAT: Literal["csr-session"] = "csr-session"
FORMAT_VERSION: Literal[3] = 3  # 2: contributions counted from the absent medians; 3: notes, tied regions
_MAX_LABELS = 10_000
_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # they change the order in which text is shown


def _readable(text: str) -> str:
    """Return text as it is.

    Raises:
        ValueError: characters that are not shown, or that turn the text around them.
    """
    for c in text:
        if (unicodedata.category(c) == "Cc" and c not in "\n\t") or ord(c) in _TURNING:
            raise ValueError("a control character that no text needs")
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_readable)]
Name = Annotated[str, Field(max_length=1000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$")]


class Notes(Schema):
    """What the reader of an image wrote beside the edits."""

    reader: Annotated[str, Field(max_length=MAX_READER), AfterValidator(_readable)] = ""
    comment: Text = ""
    conclusion: Text = ""


class Step(Schema):
    """One action, the edits in force after it, and their result."""

    time: str = Field(description="UTC, ISO 8601")
    action: Action
    edits: Edits
    result: Result


class ModelName(Schema):
    """The model of a record."""

    name: str
    sha256: str


class Restored(Schema):
    """The first steps were replayed from a record, and have its times."""

    time: str = Field(description="of the replay, UTC, ISO 8601")
    steps: int
    largest_difference: float = Field(
        description="between a probability in that record and the same one computed again"
    )


class SessionState(State):
    """The whole state of a session, with what the page needs to keep its record."""

    notes: Notes
    last_time: str = Field(description="of the last step, UTC, ISO 8601")
    last_action: Action
    restored: Restored | None


class Record(Schema):
    """The record of a session: enough to see, or to compute again, what was done to a diagnosis."""

    format: Literal["csr-session"]
    format_version: int
    csr_version: str
    torch_version: str
    model: ModelName
    image: ImageFacts
    opened: str
    downloaded: str
    notes: Notes
    restored: Restored | None
    concepts: list[str]
    targets: list[str]
    steps: list[Step] = Field(
        description="every action in order, with the edits then in force and their result"
    )


class _Read(BaseModel):
    """A part of a record that comes back; keys that are not needed are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class DiagnosisIn(_Read):
    """A probability to compare with."""

    name: Name
    probability: Fraction


class ResultIn(_Read):
    """The diagnoses after a step, in the model's order."""

    diagnoses: list[DiagnosisIn] = Field(max_length=_MAX_LABELS)


class StepIn(_Read):
    """A step to replay."""

    time: Time
    action: Action
    edits: EditsIn
    result: ResultIn


class ModelIn(_Read):
    """The model that a record names."""

    name: Name
    sha256: Sha256


class ImageIn(_Read):
    """The image that a record names."""

    name: Name
    sha256: Sha256


class RecordIn(_Read):
    """A record to replay: a downloaded one, or one that a page kept, with probabilities alone as results."""

    format: Literal["csr-session"]
    format_version: Literal[2, 3]
    model: ModelIn
    image: ImageIn
    notes: Notes = Notes()
    steps: list[StepIn] = Field(min_length=1, max_length=MAX_STEPS)


class Replay(Schema):
    """What a replay led to."""

    state: SessionState
    steps: int
    largest_difference: float
    same: bool = Field(description="all probabilities are those of the record, but for rounding")
