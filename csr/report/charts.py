"""Charts as inline SVG; this module computes where marks lie, `templates/charts/` draws them.

Why not matplotlib: every mark here has a hover title with its numbers (`<title>`), and colours are the page's
CSS variables, so that a chart follows the page from light to dark. A picture drawn in advance has neither.
Series differ in shape as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from csr.report import page

# pixels of an SVG's own coordinates
WIDTH, LABEL_PX, RIGHT_PX, ROW_PX, TOP_PX, AXIS_PX, NOTE_PX = 720, 200, 24, 26, 8, 30, 18
BALANCE_LABEL_PX, COUNT_PX = 260, 50
CELL_PX, NAME_PX = 22, 190
SIZE_PX, SIZE_LEFT_PX, SIZE_TOP_PX = 320, 60, 10
MAX_LABEL = 28  # letters
NUM_SERIES = 4  # shapes of marks
_ROUND_STEPS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
Shape = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """A point with an interval; series 0 is a disc, 1 a diamond, 2 an upright line, 3 a hollow square."""

    value: float | None
    low: float | None = None
    high: float | None = None
    series: int = 0
    name: str = ""


class _Scale:
    """Maps a value to x in pixels, inside the ends."""

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        self.low, self.high, self.left, self.right = low, high, left, right

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)


def dot_plot(
    rows: Sequence[tuple[str, Sequence[Mark]]],
    *,
    title: str,
    low: float = 0.0,
    high: float = 1.0,
    fit: bool = False,
    reference: float | None = None,
) -> Markup:
    """Return one row for each label, its marks below one another, on a common scale.

    Args:
        rows: (label, marks); a mark without a value is omitted.
        title: read by screen readers.
        low, high: ends of the scale; marks beyond are moved to its end, their hover title has the value.
        fit: round ends around all marks and whiskers instead; the chart says where its axis begins.
        reference: a dashed line at this value, where the scale has it.
    """
    note = ""
    if fit:
        low, high = fitted_ends([mark for _, marks in rows for mark in marks])
        note = "" if low == 0 else f"the axis begins at {low:g}"
    scale = _Scale(low, high, LABEL_PX, WIDTH - RIGHT_PX)
    shapes, y = [], float(TOP_PX)
    for label, marks in rows:
        lanes = max(1, sum(mark.series < 2 for mark in marks))
        bottom = y + (ROW_PX if lanes == 1 else 14 * lanes + 10)
        shapes.append(
            {
                "label": label,
                "short": cut(label),
                "y": (y + bottom) / 2 + 4,
                "marks": _marks(marks, scale, y, bottom),
            }
        )
        y = bottom
    ticks = [low + i * (high - low) / 5 for i in range(6)]
    return drawn(
        "dot_plot",
        title=title,
        width=WIDTH,
        height=y + AXIS_PX + (NOTE_PX if note else 0),
        shown=None,
        ticks=[{"x": scale(tick), "text": f"{tick:.3g}"} for tick in ticks],
        note=note,
        note_x=LABEL_PX,
        top=TOP_PX,
        bottom=y,
        label_x=LABEL_PX - 10,
        reference=scale(reference) if reference is not None and low <= reference <= high else None,
        rows=shapes,
    )


def fitted_ends(marks: Sequence[Mark]) -> tuple[float, float]:
    """Return the ends of five round steps that hold all values and whiskers; 0 to 1 without any."""
    values = [v for mark in marks for v in (mark.value, mark.low, mark.high) if v is not None]
    if not values:
        return 0.0, 1.0
    lowest, highest = min(values), max(values)
    for step in (0.01, 0.02, 0.04, 0.05, 0.1, 0.2):
        low = math.floor(round(lowest / step, 6)) * step
        if highest <= 1 and low + 5 * step > 1:  # shares do not exceed 1
            low = 1 - 5 * step
        if low <= lowest + 1e-9 and highest <= low + 5 * step + 1e-9:
            return round(low, 6), round(low + 5 * step, 6)
    return min(0.0, lowest), max(1.0, highest)


def _marks(marks: Sequence[Mark], scale: _Scale, top: float, bottom: float) -> list[Shape]:
    lanes = [mark for mark in marks if mark.series < 2]
    step = (bottom - top) / max(1, len(lanes))
    shapes = []
    for mark in sorted(marks, key=lambda mark: -mark.series):  # floors lie below
        if mark.value is not None:
            y = (top + bottom) / 2 if mark.series >= 2 else top + step * (lanes.index(mark) + 0.5)
            shapes.append(_mark(mark, scale, y, (bottom - top) / 2 - 4))
    return shapes


def _mark(mark: Mark, scale: _Scale, y: float, half: float) -> Shape:
    """Return a mark in pixels; `half` is half the height of an upright line."""
    assert mark.value is not None
    caption = f"{mark.name} {mark.value:.3f}".strip()
    whisker = None
    if mark.low is not None and mark.high is not None:
        caption += f" ({mark.low:.3f} to {mark.high:.3f})"
        whisker = (scale(mark.low), scale(mark.high)) if mark.series < 2 else None
    return {
        "series": mark.series,
        "caption": caption,
        "x": scale(mark.value),
        "y": y,
        "half": half,
        "whisker": whisker,
    }


def balance_plot(rows: Sequence[tuple[str, int, int]], *, title: str) -> Markup:
    """Return bars to the right (fixed) and to the left (broken) of a middle line, with their counts.

    Args:
        rows: (label, fixed, broken).
        title: read by screen readers.
    """
    largest = max([1, *(max(fixed, broken) for _, fixed, broken in rows)])
    unit = ((WIDTH - BALANCE_LABEL_PX) / 2 - COUNT_PX) / largest
    bottom = TOP_PX + ROW_PX * len(rows)
    return drawn(
        "balance_plot",
        title=title,
        width=WIDTH,
        height=bottom + AXIS_PX,
        shown=None,
        top=TOP_PX,
        bottom=bottom,
        middle=(BALANCE_LABEL_PX + WIDTH) / 2,
        label_x=BALANCE_LABEL_PX - 10,
        bar_px=ROW_PX - 10,
        rows=[
            {
                "label": label,
                "y": TOP_PX + ROW_PX * i + 5,
                "text_y": TOP_PX + ROW_PX * (i + 0.5) + 4,
                "fixed": fixed,
                "broken": broken,
                "fixed_px": fixed * unit,
                "broken_px": broken * unit,
            }
            for i, (label, fixed, broken) in enumerate(rows)
        ],
    )


def legend(series: Sequence[tuple[int, str]]) -> Markup:
    """Return the shapes and their meaning, one after another.

    Args:
        series: (number, name), numbers as in `Mark`.
    """
    x, items = 6.0, []
    for number, name in series:
        mark = _mark(Mark(0.0, series=number, name=name), _Scale(0, 1, x + 6, x + 7), 11, 8)
        mark["caption"] = name  # a legend has no value
        items.append({"mark": mark, "x": x + 18, "name": name})
        x += 34 + 7.2 * len(name)
    title = "Legend: " + ", ".join(name for _, name in series)
    return drawn("legend", title=title, width=WIDTH, height=22, shown=None, items=items)


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]], *, title: str) -> Markup:
    """Return the share of the images with a row's label that have a column's label too; darker is more.

    Args:
        names: of rows and columns.
        counts: images with both; the diagonal has those with one.
        title: read by screen readers.
    """
    side = NAME_PX + CELL_PX * len(names)
    cells = []
    for i, row in enumerate(counts):
        for j, both in enumerate(row):
            share = both / row[i] if row[i] else 0.0
            caption = f"{both} of {row[i]} images with {names[i]} have {names[j]} ({share:.0%})"
            place = {"x": NAME_PX + CELL_PX * j, "y": NAME_PX + CELL_PX * i}
            cells.append({**place, "share": share, "caption": caption})
    return drawn(
        "heat_map",
        title=title,
        width=side + 120,
        height=side + 4,
        shown=side + 120,
        name_px=NAME_PX,
        cell_px=CELL_PX,
        names=[
            {"middle": NAME_PX + CELL_PX * (i + 0.5) + 4, "short": cut(name)} for i, name in enumerate(names)
        ],
        cells=cells,
    )


def size_plot(sizes: Mapping[str, Sequence[Sequence[int]]], *, title: str) -> Markup:
    """Return image sizes in pixels: one disc (train) or diamond (test) each, larger for more images.

    Args:
        sizes: by split, (width, height, images).
        title: read by screen readers.
    """
    end = _round_end(max([1, *(max(width, height) for rows in sizes.values() for width, height, _ in rows)]))
    left, bottom = SIZE_LEFT_PX, SIZE_TOP_PX + SIZE_PX
    marks = []
    for series, (split, rows) in enumerate(sizes.items()):
        total = max(1, sum(count for _, _, count in rows))
        marks += [
            {
                "series": series,
                "x": left + SIZE_PX * width / end,
                "y": bottom - SIZE_PX * height / end,
                "radius": 2.5 + 9 * (count / total) ** 0.5,
                "caption": f"{split}: {count} images of {width} x {height}",
            }
            for width, height, count in rows
        ]
    quarters = [i / 4 for i in range(5)]
    return drawn(
        "size_plot",
        title=title,
        width=left + SIZE_PX + 24,
        height=bottom + 42,
        shown=left + SIZE_PX + 24,
        left=left,
        right=left + SIZE_PX,
        top=SIZE_TOP_PX,
        bottom=bottom,
        ticks=[
            {"x": left + SIZE_PX * part, "y": bottom - SIZE_PX * part, "text": f"{part * end:g}"}
            for part in quarters
        ],
        marks=marks,
    )


def _round_end(largest: float) -> float:
    """Return the end of a scale in four round steps that holds a value."""
    unit = 10.0 ** math.floor(math.log10(largest / 4))
    return 4 * next(step * unit for step in _ROUND_STEPS if 4 * step * unit >= largest)


def cut(text: str) -> str:
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 3] + "..."


def drawn(template: str, **values: Any) -> Markup:
    """Return a filled template of `templates/charts/`, which a page takes as it is."""
    return Markup(page.render(f"charts/{template}.svg", **values))
