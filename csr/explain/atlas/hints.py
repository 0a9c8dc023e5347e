"""Hints: numbers of a prototype that make a doctor look twice."""

from __future__ import annotations

from typing import Any

from scipy.stats import binom

# what a hint asks for; few images prove nothing
MIN_IMAGES, SAME_PLACE, AT_EDGE, RARELY_IN_BOX, RARELY_CONCEPT = 5, 0.06, 0.15, 0.25, 0.5
CLEARLY_MORE, BY_CHANCE = 0.2, 0.001
Record = dict[str, Any]


def hints(record: Record) -> list[str]:
    """Return what makes a doctor suspicious; each may have a good reason, none rejects a prototype."""
    similar, found = record["similar"], []
    if not record["alive"]:
        found.append("dead: it never wins")
    if similar["images"] < MIN_IMAGES:
        return found
    x, y = similar["peak_mean"]
    at_edge = min(x, y, 1 - x, 1 - y) < AT_EDGE
    if similar["peak_spread"] < SAME_PLACE:
        edge = "at the edge, " if at_edge else ""
        found.append(f"looks at the same place in every image, {edge}{place_words(x, y)}")
    if similar["with_boxes"] >= MIN_IMAGES and similar["in_box"] < RARELY_IN_BOX:
        found.append(f"looks outside of the concept's boxes ({similar['in_box']:.0%} inside)")
    concept, at_most = similar["concept"], similar["concept_at_most"]
    if concept is not None and concept < RARELY_CONCEPT * at_most:  # a rare concept cannot fill the list
        most = "" if at_most == 1 else f", at most {at_most:.0%} could"
        found.append(f"its images lack the concept ({concept:.0%} have it{most})")
    for name, value in similar["targets"].items():
        predicted = similar["predicted"][name]
        if (
            value is not None
            and predicted is not None
            and _is_more(value, predicted, similar["annotated"][name])
        ):
            found.append(
                f"its images share {name} ({value:.0%}) more than the concept explains ({predicted:.0%})"
            )
    return found


def place_words(x: float, y: float) -> str:
    """Return where a point lies on a picture, in words; left and right as one sees them.

    Args:
        x, y: fractions of the picture, from its upper left corner; thirds have names.
    """
    row = ("upper", "", "lower")[min(2, max(0, int(3 * y)))]
    column = ("left", "middle", "right")[min(2, max(0, int(3 * x)))]
    if not row:
        return "in the centre" if column == "middle" else f"{column}, half-way up"
    return f"{row} {column}"


def _is_more(value: float, predicted: float, number: int) -> bool:
    """Return whether a share is larger than predicted, clearly and beyond what chance does to so few
    images.
    """
    by_chance = float(binom.sf(round(value * number) - 1, number, predicted))
    return value > predicted + CLEARLY_MORE and by_chance < BY_CHANCE
