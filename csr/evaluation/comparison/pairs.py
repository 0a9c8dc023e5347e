"""Paired tests of groups of runs against a reference: resampled images, DeLong, runs; Holm-corrected.

Letters: N images, R resamples, G runs of a group, L labels of one kind, S scores; macro and micro stand
behind the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from csr.data.labels.positive import is_positive
from csr.evaluation.bootstrap import limits
from csr.evaluation.comparison.delong import delong
from csr.evaluation.comparison.multiple_tests import bootstrap_p, holm, runs_p
from csr.evaluation.label_scores import SCORES, known

Row = dict[str, Any]
TESTED_OVERALL = ("auroc", "auprc", "f1_at_threshold", "brier")  # macro and micro
TESTED_BY_LABEL = ("auroc",)


@dataclass(frozen=True, eq=False)
class Side:
    """A group in a test.

    Attributes:
        name: of the group.
        value_GLS: of its runs on all images, (G, L + 2, S).
        mean_RLS: mean of the runs on resamples, (R, L + 2, S); the same resamples in every group.
        probability_NL: of a group of one run; None of more, whose AUROCs DeLong's test does not know.
    """

    name: str
    value_GLS: np.ndarray
    mean_RLS: np.ndarray
    probability_NL: np.ndarray | None


def pair_tests(
    kind: str,
    sides: Sequence[Side | None],
    first: int,
    *,
    names: Sequence[str],
    label_NL: np.ndarray,
    paired: Sequence[bool],
) -> list[Row]:
    """Return the tests of all sides against one of them.

    Args:
        kind: `targets` or `concepts`, copied into the rows.
        sides: None for a group without labels of this kind.
        first: place of the reference.
        names: of the L labels.
        label_NL: the truth.
        paired: whether the runs of each side pair up with those of the reference.

    Returns:
        Rows with `kind`, `label`, `score`, `first`, `second`, `difference` (second minus first) with `low`
        and `high` by resampled images, and p-values: `p` (resampled images), `p_delong` (AUROC of a label,
        single runs), `p_runs` (t-test over runs, `runs_test` says which), each with its corrected value
        (`p_holm`, ..). A family is all tests of one kind of labels and one score; labels, macro and micro are
        families apart. None where a test does not exist.
    """
    reference = sides[first]
    if reference is None:
        return []
    rows = []
    for i, side in enumerate(sides):
        if side is None or i == first:
            continue
        for place, name in enumerate([*names, "macro", "micro"]):
            is_label = place < len(names)
            for score in TESTED_BY_LABEL if is_label else TESTED_OVERALL:
                row = _test(reference, side, place, SCORES.index(score), paired=paired[i])
                is_auroc = is_label and score == "auroc"
                p_delong = _delong_p(reference, side, label_NL, place) if is_auroc else None
                rows.append({"kind": kind, "label": name, "score": score, **row, "p_delong": p_delong})
    _correct(rows, overall=("macro", "micro"))
    return rows


def _test(first: Side, second: Side, place: int, s: int, *, paired: bool) -> Row:
    difference_R = second.mean_RLS[:, place, s] - first.mean_RLS[:, place, s]
    low, high = limits(difference_R)
    value = np.mean(second.value_GLS[:, place, s]) - np.mean(first.value_GLS[:, place, s])
    p_runs = runs_p(
        first.value_GLS[:, place, s].tolist(), second.value_GLS[:, place, s].tolist(), paired=paired
    )
    return {
        "first": first.name,
        "second": second.name,
        "difference": known(value),
        "low": known(float(low)),
        "high": known(float(high)),
        "p": None if np.isnan(value) else bootstrap_p(difference_R),
        "p_runs": p_runs,
        "runs_test": None if p_runs is None else "paired t" if paired else "Welch",
    }


def _delong_p(first: Side, second: Side, label_NL: np.ndarray, place: int) -> float | None:
    if first.probability_NL is None or second.probability_NL is None:
        return None
    known_N = ~np.isnan(label_NL[:, place])
    found = delong(
        first.probability_NL[known_N, place],
        second.probability_NL[known_N, place],
        is_positive(label_NL[known_N, place]),
    )
    return None if found is None else found.p


def _correct(rows: list[Row], *, overall: tuple[str, ...]) -> None:
    """Add `p_holm`, `p_delong_holm` and `p_runs_holm`; macro and micro are families of their own."""
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        family = row["label"] if row["label"] in overall else ""
        families.setdefault((family, row["score"]), []).append(row)
    for members in families.values():
        for name in ("p", "p_delong", "p_runs"):
            for row, corrected in zip(members, holm([row[name] for row in members]), strict=True):
                row[f"{name}_holm"] = corrected
