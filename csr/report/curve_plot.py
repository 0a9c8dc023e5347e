"""Curves with intervals over a logarithmic scale, as inline SVG in the manner of `csr.report.charts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from csr.report import page
from csr.report.charts import NUM_SERIES, Mark

LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX, WIDTH = 46, 696, 10, 270, 720
APART_PX = 44  # numbers below that are nearer than this are left out
SHIFT_PX = 3  # between curves, so that their bars do not cover each other


def curve_plot(
    series: Sequence[tuple[str, Sequence[tuple[float, Mark]]]],
    *,
    title: str,
    below: str,
    low: float,
    high: float,
) -> Markup:
    """Return one curve for each series, its marks with upright intervals.

    Args:
        series: (name, points), each point (x above 0, mark) by growing x; a mark without a value is omitted.
        title: read by screen readers.
        below: what x counts.
        low, high: ends of the upright scale.
    """
    numbers = sorted({x for _, points in series for x, _ in points})
    first, last = math.log(numbers[0]), math.log(numbers[-1])
    width = (last - first) or 1.0

    def across(x: float) -> float:
        return LEFT_PX + 20 + (math.log(x) - first) / width * (RIGHT_PX - LEFT_PX - 40)

    def upright(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return BOTTOM_PX - share * (BOTTOM_PX - TOP_PX)

    curves = []
    for place, (name, points) in enumerate(series):
        shift = SHIFT_PX * (place - (len(series) - 1) / 2)
        marks = [_mark(name, mark, across(x) + shift, upright, place % NUM_SERIES) for x, mark in points]
        curves.append({"series": place % NUM_SERIES, "marks": [mark for mark in marks if mark is not None]})
    ticks = [low + i * (high - low) / 5 for i in range(6)]
    return Markup(
        page.render(
            "charts/curve_plot.svg",
            title=title,
            width=WIDTH,
            height=BOTTOM_PX + 42,
            shown=None,
            left=LEFT_PX,
            right=RIGHT_PX,
            top=TOP_PX,
            bottom=BOTTOM_PX,
            below=below,
            x_ticks=_apart([{"x": across(x), "text": f"{x:g}"} for x in numbers]),
            y_ticks=[{"y": upright(tick), "text": f"{tick:.2f}"} for tick in ticks],
            curves=curves,
        )
    )


def _mark(name: str, mark: Mark, x: float, upright: Any, series: int) -> dict[str, Any] | None:
    """Return a mark as `charts/marks.svg` draws it with its `bar` (top, bottom); None without a value."""
    if mark.value is None:
        return None
    caption, bar = f"{name}: {mark.name} {mark.value:.3f}", None
    if mark.low is not None and mark.high is not None:
        caption += f" ({mark.low:.3f} to {mark.high:.3f})"
        bar = (upright(mark.high), upright(mark.low))
    y = upright(mark.value)
    return {"series": series, "caption": caption, "x": x, "y": y, "half": 7, "whisker": None, "bar": bar}


def _apart(ticks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ticks whose numbers do not touch; the last one always."""
    kept = ticks[-1:]
    for tick in ticks[-2::-1]:
        if kept[0]["x"] - tick["x"] >= APART_PX:
            kept.insert(0, tick)
    return kept
