"""Learning curves: scores of groups that differ in the number of training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from csr.evaluation.comparison.groups import Group, differences, option_shown
from csr.evaluation.comparison.run_record import RunRecord

BY_NUMBER = "num_images"
Results = dict[str, Any]


def learning_curves(
    runs: Sequence[RunRecord],
    groups: Sequence[Group],
    by: Sequence[str],
    *,
    kinds: dict[str, Results],
) -> dict[str, list[Results]] | None:
    """Return the curves of either kind of labels, or None where all runs have one `--num_images`.

    A curve joins the groups that differ in the number of training images alone; one of a single point is no
    curve and is left out.

    Args:
        runs: of the comparison.
        groups: of these runs.
        by: options in which the runs of a group differ.
        kinds: `targets` and `concepts`, each with the scores of every group (None: without such labels).

    Returns:
        kind -> curves: `name` and `points` (`images`: mean number of training images of the group's runs;
        `group`; macro AUROC `value`, `sd`, `low`, `high`, `over`), fewest images first.
    """
    differ = differences(runs)
    if BY_NUMBER not in differ or BY_NUMBER in by:
        return None
    names = [name for name in differ if name not in (BY_NUMBER, *by)]
    members: dict[tuple[str, ...], list[int]] = {}
    for place, group in enumerate(groups):
        first = group.runs[0]
        series = tuple(text for name in names if (text := option_shown(runs[first], name)) is not None)
        members.setdefault(series, []).append(place)
    return {
        kind: [
            {"name": ", ".join(series) or "all runs", "points": points}
            for series, places in members.items()
            if len(points := _points(runs, groups, measured["groups"], places)) > 1
        ]
        for kind, measured in kinds.items()
    }


def _points(
    runs: Sequence[RunRecord],
    groups: Sequence[Group],
    scores: Sequence[Results | None],
    places: Sequence[int],
) -> list[Results]:
    points = []
    for place in places:
        numbers = [runs[i].num_training for i in groups[place].runs]
        found = scores[place]
        if found is None or None in numbers:
            continue
        images = float(np.mean([number for number in numbers if number is not None]))
        points.append({"images": images, "group": groups[place].name, **found["macro"]["auroc"]})
    return sorted(points, key=lambda point: point["images"])
