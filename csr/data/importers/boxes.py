"""One box of a published data set: numbers and order checked, cut at the edge of its image."""

from __future__ import annotations

import math
from typing import NamedTuple

from csr.data.labels.boxes import EDGE_TOLERANCE_PX
from csr.runtime.errors import InputError


class Box(NamedTuple):
    """Edges of a box in pixels of the image, counted from 0 to its width and height."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


def checked_box(
    edges: tuple[object, object, object, object], *, location: str, size: tuple[int, int] | None = None
) -> Box:
    """Return a box of four edges; what reaches up to a pixel out of the image is cut off.

    Args:
        edges: x_min, y_min, x_max, y_max in pixels, as read.
        location: file and line or entry, for messages.
        size: width and height of the image in pixels; None leaves the far edges unchecked.

    Raises:
        InputError: no number, no area, or outside of the image.
    """
    try:
        numbers = [float(edge) for edge in edges]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{location}: {_shown(edges)} are not four numbers; correct or remove the box")
    low, high = -EDGE_TOLERANCE_PX, [math.inf] * 2 if size is None else [s + EDGE_TOLERANCE_PX for s in size]
    if min(numbers) < low or numbers[2] > high[0] or numbers[3] > high[1]:
        of = "" if size is None else f" of {size[0]} x {size[1]} pixels"
        raise InputError(f"{location}: box {_shown(numbers)} leaves its image{of}; correct or remove the box")
    limit = (math.inf, math.inf) if size is None else size
    box = Box(
        max(numbers[0], 0.0), max(numbers[1], 0.0), min(numbers[2], limit[0]), min(numbers[3], limit[1])
    )
    if not (box.x_min < box.x_max and box.y_min < box.y_max):
        raise InputError(f"{location}: box {_shown(numbers)} has no area; correct or remove the box")
    return box


def _shown(values: object) -> str:
    return ", ".join(str(v)[:20] for v in values)  # type: ignore[attr-defined]
