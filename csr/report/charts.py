"""Charts as inline SVG, written by hand: no script, no outside address; colours are the page's CSS variables.

Series differ in shape as well as in colour. Every mark has a tooltip (`<title>`) with its numbers.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, LABEL_PX, RIGHT_PX, ROW_PX, TOP_PX, AXIS_PX = 720, 200, 24, 26, 8, 30
MAX_LABEL = 28
STYLE = """
svg.chart {
  display: block; width: 100%; max-width: 720px; height: auto; font: 12px system-ui, sans-serif;
}
svg.chart text { fill: var(--ink); }
svg.chart .faint { fill: var(--soft); }
svg.chart .grid { stroke: var(--line); stroke-width: 1; }
svg.chart .axis { stroke: var(--soft); stroke-width: 1; }
svg.chart .whisker { stroke-width: 2; }
svg.chart .s0 { fill: var(--c0); stroke: var(--c0); }
svg.chart .s1 { fill: var(--c1); stroke: var(--c1); }
svg.chart .s2 { fill: none; stroke: var(--c2); stroke-width: 2; }
svg.chart .s3 { fill: var(--page); stroke: var(--c2); stroke-width: 2; }
svg.chart .curve { fill: none; stroke-width: 2; }
svg.chart .ideal { stroke: var(--soft); stroke-dasharray: 4 4; }
"""


@dataclass(frozen=True)
class Mark:
    """A point with an interval; series 0 is a disc, 1 a diamond, 2 an upright line, 3 a hollow square."""

    value: float | None
    low: float | None = None
    high: float | None = None
    series: int = 0
    name: str = ""


def escaped(text: str) -> str:
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def dot_plot(
    rows: Sequence[tuple[str, Sequence[Mark]]],
    *,
    title: str,
    low: float = 0.0,
    high: float = 1.0,
    reference: float | None = None,
) -> str:
    """One row for each label, its marks below one another, on a common scale.

    Args:
        rows: (label, marks); a mark without a value is left out.
        title: read by screen readers.
        low, high: ends of the scale; marks beyond are moved to its end, their tooltip tells the value.
        reference: a dashed line at this value.
    """
    lanes = [max(1, sum(m.series < 2 for m in marks)) for _, marks in rows]
    tops, y = [], TOP_PX
    for count in lanes:
        tops.append(y)
        y += ROW_PX if count == 1 else 14 * count + 10
    scale = _Scale(low, high, LABEL_PX, WIDTH - RIGHT_PX)
    parts = [*_grid(scale, TOP_PX, y)]
    if reference is not None:
        x = scale(reference)
        parts.append(f'<line class="ideal" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP_PX}" y2="{y}"/>')
    for (label, marks), top, bottom in zip(rows, tops, [*tops[1:], y], strict=True):
        parts.append(_label(label, (top + bottom) / 2))
        parts += _marks(marks, scale, top, bottom)
    return svg(parts, y + AXIS_PX, title)


def _marks(marks: Sequence[Mark], scale: _Scale, top: float, bottom: float) -> list[str]:
    shown = [m for m in marks if m.value is not None]
    lanes = [m for m in marks if m.series < 2]
    step = (bottom - top) / max(1, len(lanes))
    parts = []
    for mark in sorted(shown, key=lambda m: -m.series):  # floors lie below
        middle = (top + bottom) / 2 if mark.series >= 2 else top + step * (lanes.index(mark) + 0.5)
        parts.append(_mark(mark, scale, middle, (bottom - top) / 2 - 4))
    return parts


def _mark(mark: Mark, scale: _Scale, y: float, half: float) -> str:
    assert mark.value is not None
    x = scale(mark.value)
    told = f"{mark.name} {mark.value:.3f}".strip()
    whisker = ""
    if mark.low is not None and mark.high is not None:
        told += f" ({mark.low:.3f} to {mark.high:.3f})"
        ends = f'x1="{scale(mark.low):.1f}" x2="{scale(mark.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        whisker = f'<line class="whisker" {ends}/>' if mark.series < 2 else ""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<path d="M{x - 5.5:.1f} {y:.1f}l5.5 -5.5l5.5 5.5l-5.5 5.5Z"/>',
        f'<path d="M{x:.1f} {y - half:.1f}V{y + half:.1f}"/>',
        f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
    )
    return f'<g class="s{mark.series}"><title>{escaped(told)}</title>{whisker}{shapes[mark.series]}</g>'


class _Scale:
    """value -> x in pixels, inside the ends."""

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        self.low, self.high, self.left, self.right = low, high, left, right

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)


def _grid(scale: _Scale, top: float, bottom: float) -> list[str]:
    parts = []
    for i in range(6):
        value = scale.low + i * (scale.high - scale.low) / 5
        x = scale(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(
            f'<text class="faint" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:.2g}</text>'
        )
    return parts


def _label(text: str, y: float) -> str:
    short = text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 3] + "..."
    return (
        f'<text x="{LABEL_PX - 10}" y="{y + 4:.1f}" text-anchor="end">{escaped(short)}'
        f"<title>{escaped(text)}</title></text>"
    )


def svg(
    parts: Sequence[str], height: float, title: str, *, width: float = WIDTH, shown: float | None = None
) -> str:
    size = "" if shown is None else f' style="max-width:{shown:.0f}px"'
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width:.0f} {height:.0f}"{size}'
        f' aria-label="{escaped(title)}">{"".join(parts)}</svg>'
    )


def reliability_plot(bins: Sequence[tuple[int, float, float]], *, title: str) -> str:
    """Observed frequency over predicted probability; discs grow with the images in them.

    Args:
        bins: (n, mean probability, mean label), see `csr.evaluation.calibration.reliability`.
        title: shown above.
    """
    side, left, top = 200, 34, 24
    total = max(1, sum(n for n, _, _ in bins))
    parts = [f'<text x="{left + side / 2}" y="14" text-anchor="middle">{escaped(_cut(title))}</text>']
    for tick in (0.0, 0.5, 1.0):
        x, y = left + tick * side, top + side * (1 - tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{top + side}"/>')
        parts.append(f'<line class="grid" x1="{left}" x2="{left + side}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="faint" x="{x}" y="{top + side + 16}" text-anchor="middle">{tick:g}</text>'
        )
        parts.append(f'<text class="faint" x="{left - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<line class="ideal" x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}"/>')
    points = [(left + p * side, top + side * (1 - o)) for _, p, o in bins]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<g class="s0"><polyline class="curve" points="{line}"/></g>')
    for (x, y), (n, probability, observed) in zip(points, bins, strict=True):
        told = f"{n} entries: probability {probability:.3f}, observed {observed:.3f}"
        radius = 2.5 + 6 * (n / total) ** 0.5
        parts.append(
            f'<g class="s0"><title>{told}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/></g>'
        )
    return svg(parts, top + side + 24, f"Reliability of {title}", width=left + side + 10, shown=244)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 3] + "..."


def balance_plot(rows: Sequence[tuple[str, int, int]], *, title: str) -> str:
    """Bars to the right (fixed) and to the left (broken) of a middle line, with their counts."""
    largest = max([1, *(max(fixed, broken) for _, fixed, broken in rows)])
    label_px, bottom = 260, TOP_PX + ROW_PX * len(rows)
    middle = (label_px + WIDTH) / 2
    unit = ((WIDTH - label_px) / 2 - 50) / largest
    parts = []
    for i, (label, fixed, broken) in enumerate(rows):
        y = TOP_PX + ROW_PX * i
        text = y + ROW_PX / 2 + 4
        parts += [
            f'<text x="{label_px - 10}" y="{text}" text-anchor="end">{escaped(label)}</text>',
            f'<rect class="s0" x="{middle}" y="{y + 5}" width="{fixed * unit:.1f}" height="{ROW_PX - 10}"/>',
            f'<rect class="s1" x="{middle - broken * unit:.1f}" y="{y + 5}" width="{broken * unit:.1f}"'
            f' height="{ROW_PX - 10}"/>',
            f'<text x="{middle + fixed * unit + 6:.1f}" y="{text}">{fixed}</text>',
            f'<text x="{middle - broken * unit - 6:.1f}" y="{text}" text-anchor="end">{broken}</text>',
        ]
    parts.append(f'<line class="axis" x1="{middle}" x2="{middle}" y1="{TOP_PX}" y2="{bottom}"/>')
    captions = (("broken", middle - 8, "end"), ("fixed", middle + 8, "start"))
    parts += [
        f'<text class="faint" x="{x}" y="{bottom + 16}" text-anchor="{a}">{t}</text>' for t, x, a in captions
    ]
    return svg(parts, bottom + AXIS_PX, title)


def legend(series: Sequence[tuple[int, str]]) -> str:
    """What the shapes mean, one after another."""
    x, parts = 6.0, []
    for number, name in series:
        parts.append(_mark(Mark(0.0, series=number, name=name), _Scale(0, 1, x + 6, x + 7), 11, 8))
        parts.append(f'<text x="{x + 18:.0f}" y="15">{escaped(name)}</text>')
        x += 34 + 7.2 * len(name)
    return svg(parts, 22, "Legend: " + ", ".join(name for _, name in series))


CELL_PX, NAME_PX = 22, 190

SIDE_PX, LEFT_PX, PLOT_TOP_PX = 320, 60, 10


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]], *, title: str) -> str:
    """Share of the images with a row's label that have a column's label too; darker is more.

    Args:
        names: of rows and columns.
        counts: images with both; the diagonal has those with one.
        title: read by screen readers.
    """
    width, height = NAME_PX + CELL_PX * len(names) + 120, NAME_PX + CELL_PX * len(names)
    parts = []
    for i, name in enumerate(names):
        x, y = NAME_PX + CELL_PX * (i + 0.5), NAME_PX + CELL_PX * (i + 0.5)
        parts.append(f'<text x="{NAME_PX - 8}" y="{y + 4:.0f}" text-anchor="end">{_short(name)}</text>')
        parts.append(
            f'<text transform="translate({x + 4:.0f} {NAME_PX - 8}) rotate(-60)">{_short(name)}</text>'
        )
    for i, row in enumerate(counts):
        for j, both in enumerate(row):
            share = both / row[i] if row[i] else 0.0
            told = f"{both} of {row[i]} images with {names[i]} have {names[j]} ({share:.0%})"
            x, y = NAME_PX + CELL_PX * j, NAME_PX + CELL_PX * i
            parts.append(
                f'<g><title>{escaped(told)}</title><rect class="cell" x="{x}" y="{y}" width="{CELL_PX}" '
                f'height="{CELL_PX}"/><rect class="heat" x="{x}" y="{y}" width="{CELL_PX}" height="{CELL_PX}" '
                f'fill-opacity="{share:.3f}"/></g>'
            )
    return svg(parts, height + 4, title, width=width, shown=width)


def size_plot(sizes: dict[str, Sequence[Sequence[int]]], *, title: str) -> str:
    """Width and height of the images, one disc (train) or diamond (test) for each size, larger for more images.

    Args:
        sizes: by split, (width, height, images).
        title: read by screen readers.
    """
    top = _round_end(max([1, *(max(width, height) for rows in sizes.values() for width, height, _ in rows)]))
    bottom = PLOT_TOP_PX + SIDE_PX
    parts = []
    for i in range(5):
        value = i * top / 4
        x, y = LEFT_PX + SIDE_PX * i / 4, bottom - SIDE_PX * i / 4
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{PLOT_TOP_PX}" y2="{bottom}"/>')
        parts.append(
            f'<line class="grid" x1="{LEFT_PX}" x2="{LEFT_PX + SIDE_PX}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="faint" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>'
        )
        parts.append(
            f'<text class="faint" x="{LEFT_PX - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for series, (split, rows) in enumerate(sizes.items()):
        total = max(1, sum(count for _, _, count in rows))
        for width, height, count in rows:
            x, y = LEFT_PX + SIDE_PX * width / top, bottom - SIDE_PX * height / top
            radius = 2.5 + 9 * (count / total) ** 0.5
            mark = (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill-opacity="0.6"/>'
                if not series
                else f'<path d="M{x - radius:.1f} {y:.1f}l{radius:.1f} {-radius:.1f}l{radius:.1f} {radius:.1f}'
                f'l{-radius:.1f} {radius:.1f}Z" fill-opacity="0.6"/>'
            )
            told = f"{split}: {count} images of {width} x {height}"
            parts.append(f'<g class="s{series}"><title>{escaped(told)}</title>{mark}</g>')
    middle = LEFT_PX + SIDE_PX / 2
    parts.append(
        f'<text class="faint" x="{middle}" y="{bottom + 34}" text-anchor="middle">width, pixels</text>'
    )
    parts.append(
        f'<text class="faint" transform="translate(12 {PLOT_TOP_PX + SIDE_PX / 2}) rotate(-90)" '
        'text-anchor="middle">height, pixels</text>'
    )
    width = LEFT_PX + SIDE_PX + 24
    return svg(parts, bottom + 42, title, width=width, shown=width)


def _round_end(largest: float) -> float:
    """The end of a scale in four round steps that holds a value."""
    unit = 10.0 ** math.floor(math.log10(largest / 4))
    return 4 * next(step * unit for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if 4 * step * unit >= largest)


def _short(text: str) -> str:
    return escaped(text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 3] + "...")
