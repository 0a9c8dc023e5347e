"""Scores of every label with intervals, their mean (macro) and all entries pooled (micro).

A label that is not annotated (NaN) is no entry. Soft labels are positive from 0.5 on; calibration takes them
as fractions. A score that does not exist (AUROC of one class) is NaN and omitted from the macro mean. F1 is
at the chosen thresholds and named so: that of a run's results.json is at 0.5.

Letters: N images, L labels (K concepts or T targets), E entries, R rows of weights, S scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from csr.data.labels.positive import is_negative, is_positive
from csr.evaluation.bootstrap import Bootstrap, Estimate, estimate, proportion_limits
from csr.evaluation.calibration import Calibration
from csr.evaluation.weighted_metrics import Ranking, confusion, ratio

SCORES = ("auroc", "auprc", "f1_at_threshold", "sensitivity", "specificity", "brier", "ece")
Row = dict[str, Any]


class _Entries:
    """The annotated entries of one label, or of all: probability, label, decision and image, each (E,)."""

    def __init__(
        self, probability_N: np.ndarray, label_N: np.ndarray, called_N: np.ndarray, image_N: np.ndarray
    ) -> None:
        self.image_N, self.called_N, self.truth_N = image_N, called_N, is_positive(label_N)
        self.ranking = Ranking(probability_N, self.truth_N)
        self.calibration = Calibration(probability_N, label_N)

    def __call__(self, weight_RN: np.ndarray) -> np.ndarray:
        """Return the scores, (R, S)."""
        weight_RE = weight_RN[:, self.image_N]
        counted = confusion(self.called_N, self.truth_N, weight_RE)
        ranked = self.ranking.scores(weight_RE)
        called = (counted.f1, counted.sensitivity, counted.specificity)
        return np.stack([*ranked, *called, *self.calibration.scores(weight_RE)], axis=1)


class LabelMeasure:
    """All scores as a function of weights, weight_RN -> (R, L + 2, S): the labels, then macro, then micro.

    Args:
        probability_NL: 0 to 1.
        label_NL: 0 to 1, NaN where not annotated.
        called_NL: bool, decisions of the model.
    """

    def __init__(self, probability_NL: np.ndarray, label_NL: np.ndarray, called_NL: np.ndarray) -> None:
        known_NL = ~np.isnan(label_NL)
        self._labels = [
            _Entries(probability_N[some_N], label_N[some_N], called_N[some_N], np.flatnonzero(some_N))
            for probability_N, label_N, called_N, some_N in zip(
                probability_NL.T, label_NL.T, called_NL.T, known_NL.T, strict=True
            )
        ]
        self._pooled = _Entries(
            probability_NL[known_NL], label_NL[known_NL], called_NL[known_NL], np.nonzero(known_NL)[0]
        )

    def __call__(self, weight_RN: np.ndarray) -> np.ndarray:
        value_RLS = np.stack([entries(weight_RN) for entries in self._labels], axis=1)
        macro_RS = mean_of_known(value_RLS)
        return np.concatenate([value_RLS, macro_RS[:, None], self._pooled(weight_RN)[:, None]], axis=1)


def mean_of_known(value_RLS: np.ndarray) -> np.ndarray:
    """Return the mean over L of what is not NaN, (R, S); NaN where nothing is."""
    known_RLS = ~np.isnan(value_RLS)
    return ratio(np.where(known_RLS, value_RLS, 0.0).sum(axis=1), known_RLS.sum(axis=1))


def score_labels(
    probability_NL: np.ndarray,
    label_NL: np.ndarray,
    called_NL: np.ndarray,
    *,
    names: Sequence[str],
    threshold_L: np.ndarray | None,
    bootstrap: Bootstrap,
) -> Row:
    """Measure all labels of one kind. Collective.

    Args:
        probability_NL, label_NL, called_NL: see `LabelMeasure`.
        names: of the L labels.
        threshold_L: thresholds behind `called_NL`; None: the likeliest label is the one called.
        bootstrap: of the intervals.

    Returns:
        `labels` (name -> n, positives, threshold, and each of SCORES as {value, low, high}), `macro` and
        `micro` (each of SCORES). Numbers that do not exist are None. Sensitivity and specificity of labels
        have Wilson's intervals (`proportion_limits`), also without resamples.
    """
    measured = estimate(
        LabelMeasure(probability_NL, label_NL, called_NL),
        num_images=len(label_NL),
        bootstrap=bootstrap,
        cells_per_image=len(names),
    )
    labels = {}
    for i, name in enumerate(names):
        number, positives = int(np.sum(~np.isnan(label_NL[:, i]))), int(np.sum(is_positive(label_NL[:, i])))
        scores = named(measured, i, SCORES)
        for score, count in (("sensitivity", positives), ("specificity", number - positives)):
            scores[score] = proportion_limits(scores[score], count)
        labels[name] = {
            "n": number,
            "positives": positives,
            "threshold": None if threshold_L is None else float(threshold_L[i]),
            **scores,
        }
    last = len(names)
    micro = named(measured, last + 1, SCORES)
    for score, is_one_NL in (("sensitivity", is_positive(label_NL)), ("specificity", is_negative(label_NL))):
        micro[score] = proportion_limits(micro[score], int(is_one_NL.any(axis=1).sum()), clustered=True)
    return {"labels": labels, "macro": named(measured, last, SCORES), "micro": micro}


def named(measured: Estimate, i: int, names: Sequence[str]) -> Row:
    """Return row i of an estimate (L, S) as {score: {value, low, high}}, None for what does not exist."""
    parts = {"value": measured.value[i], "low": measured.low[i], "high": measured.high[i]}
    return {name: {key: known(part[s]) for key, part in parts.items()} for s, name in enumerate(names)}


def known(value: float) -> float | None:
    """Return the value for JSON: None in place of NaN."""
    return None if np.isnan(value) else float(value)
