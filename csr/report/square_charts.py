"""Charts of two shares, each 0 to 1, in a square: reliability, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from csr.report.charts import cut, drawn

SIDE_PX, LEFT_PX, TOP_PX, NAME_PX = 200, 48, 24, 18  # of an SVG's own coordinates
_TICKS = (0.0, 0.5, 1.0)
Point = Sequence[float]


def reliability_plot(bins: Sequence[tuple[int, float, float]], *, title: str) -> Markup:
    """Return observed frequency over predicted probability; discs grow with the images in them.

    Args:
        bins: (n, mean probability, mean label), see `csr.evaluation.calibration.reliability`.
        title: shown above.
    """
    left, top, bottom = LEFT_PX, TOP_PX, TOP_PX + SIDE_PX
    total = max(1, sum(n for n, _, _ in bins))
    return drawn(
        "reliability_plot",
        title=f"Reliability of {title}",
        short=cut(title),
        width=left + SIDE_PX + 10,
        height=bottom + 24,
        shown=244,
        left=left,
        right=left + SIDE_PX,
        top=top,
        bottom=bottom,
        ticks=[
            {"x": left + tick * SIDE_PX, "y": bottom - tick * SIDE_PX, "text": f"{tick:g}"} for tick in _TICKS
        ],
        discs=[
            {
                "x": left + probability * SIDE_PX,
                "y": bottom - observed * SIDE_PX,
                "radius": 2.5 + 6 * (n / total) ** 0.5,
                "caption": f"{n} entries: probability {probability:.3f}, observed {observed:.3f}",
            }
            for n, probability, observed in bins
        ],
    )


def square_curve(
    points: Sequence[Point],
    *,
    title: str,
    axes: tuple[str, str],
    ideal: tuple[Point, Point],
    mark: Point | None,
    caption: str,
) -> Markup:
    """Return a curve in a square, a dashed line to compare it with, and a diamond where decisions are made.

    Args:
        points: (x, y) of the curve, 0 to 1.
        title: shown above.
        axes: names of x and y.
        ideal: ends of the dashed line: what a guess reaches.
        mark: (x, y) of the diamond; None: no diamond.
        caption: its hover title.
    """
    right, bottom = LEFT_PX + SIDE_PX, TOP_PX + SIDE_PX

    def place(point: Point) -> dict[str, float]:
        return {"x": LEFT_PX + point[0] * SIDE_PX, "y": bottom - point[1] * SIDE_PX}

    return drawn(
        "square_curve",
        title=f"{axes[1]} over {axes[0]} of {title}",
        short=cut(title),
        width=right + 10,
        height=bottom + 24 + NAME_PX,
        shown=244,
        left=LEFT_PX,
        right=right,
        top=TOP_PX,
        bottom=bottom,
        axes=axes,
        ticks=[{**place((tick, tick)), "text": f"{tick:g}"} for tick in _TICKS],
        points=[place(point) for point in points],
        ideal=[place(end) for end in ideal],
        mark=None if mark is None else place(mark),
        caption=caption,
    )
