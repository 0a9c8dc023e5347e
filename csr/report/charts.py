"""Charts as inline SVG for the reports: no script, no outside address, built as XML elements.

Colours are the stylesheet's variables, so that a chart follows its page into the dark; every mark has a
tooltip with its numbers. Both would be lost with pictures of a plotting library. Series differ in shape as
well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

WIDTH, LABEL_PX, RIGHT_PX, ROW_PX, TOP_PX, AXIS_PX = 720, 200, 24, 26, 8, 30
MAX_LABEL = 28


@dataclass(frozen=True)
class Mark:
    """A point with an interval; series 0 is a disc, 1 a diamond, 2 an upright line, 3 a hollow square."""

    value: float | None
    low: float | None = None
    high: float | None = None
    series: int = 0
    name: str = ""


def element(tag: str, *children: Element, text: str = "", **attributes: object) -> Element:
    """Return an element; numbers are written with one decimal, `class_` and `text_anchor` as SVG spells
    them.
    """
    made = Element(tag, {name.rstrip("_").replace("_", "-"): _value(v) for name, v in attributes.items()})
    made.text = text.encode("utf-8", "backslashreplace").decode() or None
    made.extend(children)
    return made


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def label(text: str, x: float, y: float, *, faint: bool = False, anchor: str = "start") -> Element:
    """Return a text, shortened, with the whole of it as tooltip."""
    short = text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 3] + "..."
    tooltip = [] if short == text else [element("title", text=text)]
    kind = {"class_": "faint"} if faint else {}
    return element("text", *tooltip, text=short, x=float(x), y=float(y), text_anchor=anchor, **kind)


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    """Return a line of a class."""
    return element("line", class_=kind, x1=float(x1), x2=float(x2), y1=float(y1), y2=float(y2))


def svg(
    parts: Sequence[Element], height: float, title: str, *, width: float = WIDTH, shown: float | None = None
) -> Markup:
    """Return a chart for a page.

    Args:
        parts: its elements.
        height, width: of its own coordinates, pixels.
        title: read by screen readers.
        shown: largest width on the page, pixels.
    """
    size = {} if shown is None else {"style": f"max-width:{shown:.0f}px"}
    box = f"0 0 {width:.0f} {height:.0f}"
    root = element("svg", *parts, class_="chart", role="img", viewBox=box, aria_label=_text(title), **size)
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def dot_plot(
    rows: Sequence[tuple[str, Sequence[Mark]]],
    *,
    title: str,
    low: float = 0.0,
    high: float = 1.0,
    reference: float | None = None,
) -> Markup:
    """Return one row for each label, its marks below one another, on a common scale.

    Args:
        rows: (label, marks); a mark without a value is left out.
        title: read by screen readers.
        low, high: ends of the scale; marks beyond are moved to its end, their tooltip has the value.
        reference: a dashed line at this value.
    """
    lanes = [max(1, sum(m.series < 2 for m in marks)) for _, marks in rows]
    tops, y = [], float(TOP_PX)
    for count in lanes:
        tops.append(y)
        y += ROW_PX if count == 1 else 14 * count + 10
    scale = _Scale(low, high, LABEL_PX, WIDTH - RIGHT_PX)
    parts = [*_grid(scale, TOP_PX, y)]
    if reference is not None:
        parts.append(line("ideal", scale(reference), TOP_PX, scale(reference), y))
    for (name, marks), top, bottom in zip(rows, tops, [*tops[1:], y], strict=True):
        parts.append(label(name, LABEL_PX - 10, (top + bottom) / 2 + 4, anchor="end"))
        parts += _marks(marks, scale, top, bottom)
    return svg(parts, y + AXIS_PX, title)


def _marks(marks: Sequence[Mark], scale: _Scale, top: float, bottom: float) -> list[Element]:
    shown = [m for m in marks if m.value is not None]
    lanes = [m for m in marks if m.series < 2]
    step = (bottom - top) / max(1, len(lanes))
    parts = []
    for mark in sorted(shown, key=lambda m: -m.series):  # floors lie below
        middle = (top + bottom) / 2 if mark.series >= 2 else top + step * (lanes.index(mark) + 0.5)
        parts.append(_mark(mark, scale, middle, (bottom - top) / 2 - 4))
    return parts


def _mark(mark: Mark, scale: _Scale, y: float, half: float) -> Element:
    assert mark.value is not None
    tooltip = f"{mark.name} {mark.value:.3f}".strip()
    parts = []
    if mark.low is not None and mark.high is not None:
        tooltip += f" ({mark.low:.3f} to {mark.high:.3f})"
        if mark.series < 2:
            parts.append(line("whisker", scale(mark.low), y, scale(mark.high), y))
    parts.append(_shape(mark.series, scale(mark.value), y, half))
    return element("g", element("title", text=tooltip), *parts, class_=f"s{mark.series}")


def _shape(series: int, x: float, y: float, half: float) -> Element:
    if series == 0:
        return element("circle", cx=x, cy=y, r=4.5)
    if series == 1:
        return element("path", d=f"M{x - 5.5:.1f} {y:.1f}l5.5 -5.5l5.5 5.5l-5.5 5.5Z")
    if series == 2:
        return element("path", d=f"M{x:.1f} {y - half:.1f}V{y + half:.1f}")
    return element("rect", x=x - 4, y=y - 4, width=8, height=8)


class _Scale:
    """value -> x in pixels, inside the ends."""

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        self.low, self.high, self.left, self.right = low, high, left, right

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)


def _grid(scale: _Scale, top: float, bottom: float) -> list[Element]:
    parts = []
    for i in range(6):
        value = scale.low + i * (scale.high - scale.low) / 5
        x = scale(value)
        parts.append(line("grid", x, top, x, bottom))
        parts.append(label(f"{value:.2g}", x, bottom + 18, faint=True, anchor="middle"))
    return parts


def reliability_plot(bins: Sequence[tuple[int, float, float]], *, title: str) -> Markup:
    """Return observed frequency over predicted probability; discs grow with the images in them.

    Args:
        bins: (n, mean probability, mean label).
        title: shown above.
    """
    side, left, top = 200, 34, 24
    total = max(1, sum(n for n, _, _ in bins))
    parts = [label(title, left + side / 2, 14, anchor="middle")]
    for tick in (0.0, 0.5, 1.0):
        x, y = left + tick * side, top + side * (1 - tick)
        parts += [line("grid", x, top, x, top + side), line("grid", left, y, left + side, y)]
        parts.append(label(f"{tick:g}", x, top + side + 16, faint=True, anchor="middle"))
        parts.append(label(f"{tick:g}", left - 6, y + 4, faint=True, anchor="end"))
    parts.append(line("ideal", left, top + side, left + side, top))
    points = [(left + p * side, top + side * (1 - o)) for _, p, o in bins]
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(element("g", element("polyline", class_="curve", points=curve), class_="s0"))
    for (x, y), (n, probability, observed) in zip(points, bins, strict=True):
        tooltip = f"{n} entries: probability {probability:.3f}, observed {observed:.3f}"
        disc = element("circle", cx=x, cy=y, r=2.5 + 6 * (n / total) ** 0.5)
        parts.append(element("g", element("title", text=tooltip), disc, class_="s0"))
    return svg(parts, top + side + 24, f"Reliability of {title}", width=left + side + 10, shown=244)


def balance_plot(rows: Sequence[tuple[str, int, int]], *, title: str) -> Markup:
    """Return bars to the right (fixed) and to the left (broken) of a middle line, with their counts."""
    largest = max([1, *(max(fixed, broken) for _, fixed, broken in rows)])
    label_px, bottom = 260, TOP_PX + ROW_PX * len(rows)
    middle = (label_px + WIDTH) / 2
    unit = ((WIDTH - label_px) / 2 - 50) / largest
    parts = []
    for i, (name, fixed, broken) in enumerate(rows):
        y = TOP_PX + ROW_PX * i
        text = y + ROW_PX / 2 + 4
        size: dict[str, Any] = {"y": y + 5, "height": ROW_PX - 10}
        parts += [
            label(name, label_px - 10, text, anchor="end"),
            element("rect", class_="s0", x=middle, width=fixed * unit, **size),
            element("rect", class_="s1", x=middle - broken * unit, width=broken * unit, **size),
            label(str(fixed), middle + fixed * unit + 6, text),
            label(str(broken), middle - broken * unit - 6, text, anchor="end"),
        ]
    parts.append(line("axis", middle, TOP_PX, middle, bottom))
    parts.append(label("broken", middle - 8, bottom + 16, faint=True, anchor="end"))
    parts.append(label("fixed", middle + 8, bottom + 16, faint=True))
    return svg(parts, bottom + AXIS_PX, title)


def legend(series: Sequence[tuple[int, str]]) -> Markup:
    """Return the shapes with their names, one after another."""
    x, parts = 6.0, []
    for number, name in series:
        parts.append(_mark(Mark(0.0, series=number, name=name), _Scale(0, 1, x + 6, x + 7), 11, 8))
        parts.append(label(name, x + 18, 15))
        x += 34 + 7.2 * len(name)
    return svg(parts, 22, "Legend: " + ", ".join(name for _, name in series))


CELL_PX, NAME_PX = 22, 190


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]], *, title: str) -> Markup:
    """Return the share of the images with a row's label that have a column's label too; darker is more.

    Args:
        names: of rows and columns.
        counts: images with both; the diagonal has those with one.
        title: read by screen readers.
    """
    side = NAME_PX + CELL_PX * len(names)
    parts = []
    for i, name in enumerate(names):
        middle = NAME_PX + CELL_PX * (i + 0.5)
        parts.append(label(name, NAME_PX - 8, middle + 4, anchor="end"))
        upright = label(name, 0, 0)
        upright.set("transform", f"translate({middle + 4:.0f} {NAME_PX - 8}) rotate(-60)")
        parts.append(upright)
    for i, row in enumerate(counts):
        for j, both in enumerate(row):
            share = both / row[i] if row[i] else 0.0
            tooltip = f"{both} of {row[i]} images with {names[i]} have {names[j]} ({share:.0%})"
            cell: dict[str, Any] = {
                "x": NAME_PX + CELL_PX * j,
                "y": NAME_PX + CELL_PX * i,
                "width": CELL_PX,
                "height": CELL_PX,
            }
            heat = element("rect", class_="heat", fill_opacity=f"{share:.3f}", **cell)
            parts.append(
                element("g", element("title", text=tooltip), element("rect", class_="cell", **cell), heat)
            )
    return svg(parts, side + 4, title, width=side + 120, shown=side + 120)


SIDE_PX, LEFT_PX, PLOT_TOP_PX = 320, 60, 10


def size_plot(sizes: dict[str, Sequence[Sequence[int]]], *, title: str) -> Markup:
    """Return width and height of images, a disc (train) or diamond (test) for each size, larger for more
    images.

    Args:
        sizes: by split, (width, height, images), pixels.
        title: read by screen readers.
    """
    top = _round_end(max([1, *(max(width, height) for rows in sizes.values() for width, height, _ in rows)]))
    bottom, right = PLOT_TOP_PX + SIDE_PX, LEFT_PX + SIDE_PX
    parts = []
    for i in range(5):
        value = i * top / 4
        x, y = LEFT_PX + SIDE_PX * i / 4, bottom - SIDE_PX * i / 4
        parts += [line("grid", x, PLOT_TOP_PX, x, bottom), line("grid", LEFT_PX, y, right, y)]
        parts.append(label(f"{value:g}", x, bottom + 16, faint=True, anchor="middle"))
        parts.append(label(f"{value:g}", LEFT_PX - 6, y + 4, faint=True, anchor="end"))
    for series, (split, rows) in enumerate(sizes.items()):
        total = max(1, sum(count for _, _, count in rows))
        for width, height, count in rows:
            x, y = LEFT_PX + SIDE_PX * width / top, bottom - SIDE_PX * height / top
            disc = _disc(series, x, y, 2.5 + 9 * (count / total) ** 0.5)
            tooltip = element("title", text=f"{split}: {count} images of {width} x {height}")
            parts.append(element("g", tooltip, disc, class_=f"s{series}"))
    parts.append(label("width, pixels", LEFT_PX + SIDE_PX / 2, bottom + 34, faint=True, anchor="middle"))
    upright = label("height, pixels", 0, 0, faint=True, anchor="middle")
    upright.set("transform", f"translate(12 {PLOT_TOP_PX + SIDE_PX / 2:.0f}) rotate(-90)")
    parts.append(upright)
    return svg(parts, bottom + 42, title, width=right + 24, shown=right + 24)


def _disc(series: int, x: float, y: float, radius: float) -> Element:
    if not series:
        return element("circle", cx=x, cy=y, r=radius, fill_opacity="0.6")
    r = f"{radius:.1f}"
    return element("path", d=f"M{x - radius:.1f} {y:.1f}l{r} -{r}l{r} {r}l-{r} {r}Z", fill_opacity="0.6")


def _round_end(largest: float) -> float:
    """Return the end of a scale in four round steps that holds a value."""
    unit = 10.0 ** math.floor(math.log10(largest / 4))
    return 4 * next(step * unit for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if 4 * step * unit >= largest)
