"""What the addresses of an image in full size and depth answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from csr.serve.schemas import Schema


class Window(Schema):
    """A window of grey values: its centre and width, in units of the values."""

    name: str
    centre: float
    width: float


class Depth(Schema):
    """The image in full size and depth; value = slope x raw + intercept, and windows are given in values."""

    height: int
    width: int
    channels: int = Field(description="1 grey, 3 red, green and blue")
    bits: int = Field(description="of a raw number, 8 or 16, unsigned")
    slope: float
    intercept: float
    low: float = Field(description="least value outside of the padding")
    high: float
    unit: str = Field(description="of the values, such as HU; empty: the file names none")
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = Field(description="DICOM PS3.3 C.11.2.1")
    inverted: bool = Field(description="the least value is white")
    padding: list[int] | None = Field(description="first and last raw number shown black whatever the window")
    is_exact: bool = Field(description="false: more than 16 bits were rounded to 16")
    shown_by: Literal["window", "table", "range"] = Field(
        description="what makes the pixels that the model sees"
    )
    window: Window | None = Field(
        description="that of the pixels that the model sees; null: a table, no window"
    )
    windows: list[Window] = Field(description="of the file, and the full range")
    levels: int = Field(description="raw numbers are below this")
    max_side: int = Field(description="pixels of a part, after its reduction")
    max_reduce: int
