"""Everything that is compared between runs, as plain JSON: scores of groups, paired tests, cost, calibration.

Letters: N images, R resamples, L labels of one kind, S scores (`SCORES`); two rows behind the labels are
macro and micro.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from csr.data.labels.positive import is_positive
from csr.evaluation.bootstrap import Bootstrap, limits, resampled
from csr.evaluation.calibration import reliability
from csr.evaluation.comparison.alignment import Kind, align
from csr.evaluation.comparison.groups import Group, are_paired, differences, group_runs, shown
from csr.evaluation.comparison.learning_curve import learning_curves
from csr.evaluation.comparison.multiple_tests import over_runs
from csr.evaluation.comparison.pairs import Side, pair_tests
from csr.evaluation.comparison.run_record import RunRecord
from csr.evaluation.label_scores import SCORES, LabelMeasure, known

Results = dict[str, Any]
FORMAT_VERSION = 1


def compare(runs: Sequence[RunRecord], *, by: Sequence[str], reference: int, bootstrap: Bootstrap) -> Results:
    """Compare runs on their common test images.

    Args:
        runs: of one test set, at least one.
        by: options in which the runs of one group differ; none: every run is a group.
        reference: place of the run whose group the others are compared with.
        bootstrap: of the test images.

    Returns:
        Plain JSON: `groups` (name, runs), `runs` (with cost), `differences`, `kinds` (`targets` and
        `concepts`: names, scores of each group), `learning_curves` (None unless runs differ in --num_images),
        `pairs`, `reliability`, `notices`.

    Raises:
        InputError: runs that cannot be compared.
    """
    kinds, groups = align(runs), group_runs(runs, by)
    measured = {kind: Measured(of_kind, bootstrap) for kind, of_kind in kinds.items()}
    first = next(i for i, group in enumerate(groups) if reference in group.runs)
    scores = {
        f"{kind}s": {
            "names": list(of_kind.names),
            "positives": [int(n) for n in np.sum(is_positive(of_kind.label_NL), axis=0)],
            "annotated": [int(n) for n in np.sum(~np.isnan(of_kind.label_NL), axis=0)],
            "groups": [_scores(group, of_kind, measured[kind]) for group in groups],
        }
        for kind, of_kind in kinds.items()
    }
    return {
        "format": "csr-comparison",
        "format_version": FORMAT_VERSION,
        "images": len(runs[0].predictions.image_ids),
        "by": list(by),
        "reference": groups[first].name,
        "options": {"bootstrap": bootstrap.num_resamples, "seed": bootstrap.seed},
        "groups": [{"name": group.name, "runs": [runs[i].name for i in group.runs]} for group in groups],
        "runs": [_run_row(run, i, groups, measured["target"]) for i, run in enumerate(runs)],
        "differences": {
            name: [shown(value) for value in values] for name, values in differences(runs).items()
        },
        "kinds": scores,
        "learning_curves": learning_curves(runs, groups, by, kinds=scores),
        "pairs": _pairs(groups, first, kinds, measured),
        "reliability": [{"group": group.name, "bins": _bins(kinds["target"], group)} for group in groups],
        "notices": _notices(kinds, groups),
    }


class Measured:
    """Scores of every run on all images and on the same resamples.

    Attributes:
        value_LS: of each run, (L + 2, S); None for one without labels of the kind.
        value_RLS: of each run, (R, L + 2, S).
    """

    def __init__(self, kind: Kind, bootstrap: Bootstrap) -> None:
        self.value_LS: list[np.ndarray | None] = []
        self.value_RLS: list[np.ndarray | None] = []
        for probability_NL, called_NL in zip(kind.probability_NL, kind.called_NL, strict=True):
            if probability_NL is None or called_NL is None or not kind.names:
                self.value_LS.append(None)
                self.value_RLS.append(None)
                continue
            value_LS, value_RLS = resampled(
                LabelMeasure(probability_NL, kind.label_NL, called_NL),
                num_images=len(kind.label_NL),
                bootstrap=bootstrap,
                cells_per_image=len(kind.names),
            )
            self.value_LS.append(value_LS)
            self.value_RLS.append(value_RLS)

    def of(self, group: Group) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the values of a group's runs: (runs, L + 2, S) and their mean on resamples (R, L + 2, S)."""
        values = [value for i in group.runs if (value := self.value_LS[i]) is not None]
        resamples = [value for i in group.runs if (value := self.value_RLS[i]) is not None]
        if not values:
            return None
        return np.stack(values), np.mean(resamples, axis=0)


def _run_row(run: RunRecord, place: int, groups: Sequence[Group], targets: Measured) -> Results:
    value_LS, cost = targets.value_LS[place], run.cost
    auroc = None if value_LS is None else known(value_LS[-2, SCORES.index("auroc")])
    return {
        "name": run.name,
        "group": next(group.name for group in groups if place in group.runs),
        "target_auroc": auroc,
        "seconds": cost.total_seconds,
        "seconds_by_stage": cost.seconds,
        "ranks": cost.ranks,
        "memory_mib": cost.memory_mib,
    }


def _scores(group: Group, kind: Kind, measured: Measured) -> Results | None:
    """Return name of a label, `macro` or `micro` -> score -> value, sd, low, high, `over`; None without any.

    `over` says what the interval covers: `runs` (Student's t over at least two runs), `images` (percentiles
    of resampled test images, of a single run), or None where there is no interval.
    """
    found = measured.of(group)
    if found is None:
        return None
    value_GLS, mean_RLS = found
    low_LS, high_LS = limits(mean_RLS)
    rows: Results = {"labels": {}}
    for place, name in enumerate([*kind.names, "macro", "micro"]):
        row = {}
        for s, score in enumerate(SCORES):
            value_G = value_GLS[:, place, s]
            sd, low, high = over_runs(value_G.tolist())
            over = "runs" if np.isfinite(low) else None
            if len(value_G) == 1:
                low, high = low_LS[place, s], high_LS[place, s]
                over = "images" if np.isfinite(low) else None
            numbers = {"value": np.mean(value_G), "sd": sd, "low": low, "high": high}
            row[score] = {**{key: known(value) for key, value in numbers.items()}, "over": over}
        (rows if place >= len(kind.names) else rows["labels"])[name] = row
    return rows


def _pairs(
    groups: Sequence[Group], first: int, kinds: dict[str, Kind], measured: dict[str, Measured]
) -> list[Results]:
    """Return the tests of every other group against the reference; see `pair_tests`."""
    sides = {kind: [_side(group, kinds[kind], measured[kind]) for group in groups] for kind in kinds}
    return [
        row
        for kind, of_kind in kinds.items()
        for row in pair_tests(
            f"{kind}s",
            sides[kind],
            first,
            names=of_kind.names,
            label_NL=of_kind.label_NL,
            paired=[are_paired(groups[first], group) for group in groups],
        )
    ]


def _side(group: Group, kind: Kind, measured: Measured) -> Side | None:
    found = measured.of(group)
    if found is None:
        return None
    single = kind.probability_NL[group.runs[0]] if len(group.runs) == 1 else None
    return Side(group.name, value_GLS=found[0], mean_RLS=found[1], probability_NL=single)


def _bins(kind: Kind, group: Group) -> list[list[float]]:
    """Return the reliability of all entries of all runs of a group: n, mean probability, mean label."""
    known_NL = ~np.isnan(kind.label_NL)
    parts = [value[known_NL] for i in group.runs if (value := kind.probability_NL[i]) is not None]
    if not parts:
        return []
    labels = np.tile(kind.label_NL[known_NL], len(parts))
    return [list(found) for found in reliability(np.concatenate(parts), labels)]


def _notices(kinds: dict[str, Kind], groups: Sequence[Group]) -> list[str]:
    lines = [
        f"Left out, not in every run: {kind}s {', '.join(of_kind.left_out)}"
        for kind, of_kind in kinds.items()
        if of_kind.left_out
    ]
    sizes = {len(group.runs) for group in groups}
    if len(sizes) > 1:
        lines.append("Groups have different numbers of runs: their intervals are not equally sure.")
    return lines
