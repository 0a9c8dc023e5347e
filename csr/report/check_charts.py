"""Charts of the data report: label co-occurrence as a heat map, image sizes as discs. See csr.report.charts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from csr.report.charts import MAX_LABEL, escaped, svg

CELL_PX, NAME_PX = 22, 190
SIDE_PX, LEFT_PX, TOP_PX = 320, 60, 10


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
        parts.append(f'<text transform="translate({x + 4:.0f} {NAME_PX - 8}) rotate(-60)">{_short(name)}</text>')
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
    bottom = TOP_PX + SIDE_PX
    parts = []
    for i in range(5):
        value = i * top / 4
        x, y = LEFT_PX + SIDE_PX * i / 4, bottom - SIDE_PX * i / 4
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP_PX}" y2="{bottom}"/>')
        parts.append(f'<line class="grid" x1="{LEFT_PX}" x2="{LEFT_PX + SIDE_PX}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="faint" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text class="faint" x="{LEFT_PX - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for series, (split, rows) in enumerate(sizes.items()):
        total = max(1, sum(count for _, _, count in rows))
        for width, height, count in rows:
            x, y = LEFT_PX + SIDE_PX * width / top, bottom - SIDE_PX * height / top
            radius = 2.5 + 9 * (count / total) ** 0.5
            mark = (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill-opacity="0.6"/>' if not series else
                f'<path d="M{x - radius:.1f} {y:.1f}l{radius:.1f} {-radius:.1f}l{radius:.1f} {radius:.1f}'
                f'l{-radius:.1f} {radius:.1f}Z" fill-opacity="0.6"/>'
            )  # fmt: skip
            told = f"{split}: {count} images of {width} x {height}"
            parts.append(f'<g class="s{series}"><title>{escaped(told)}</title>{mark}</g>')
    middle = LEFT_PX + SIDE_PX / 2
    parts.append(f'<text class="faint" x="{middle}" y="{bottom + 34}" text-anchor="middle">width, pixels</text>')
    parts.append(
        f'<text class="faint" transform="translate(12 {TOP_PX + SIDE_PX / 2}) rotate(-90)" '
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
