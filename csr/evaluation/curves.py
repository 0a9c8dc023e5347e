"""ROC and precision-recall curves of labels, with few enough points for a page.

Letters: N images, L labels, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from csr.data.labels.positive import is_positive

MAX_LABELS, MAX_POINTS = 40, 60
Row = dict[str, Any]


def measure_curves(
    probability_NL: np.ndarray, label_NL: np.ndarray, called_NL: np.ndarray, *, names: Sequence[str]
) -> Row:
    """Return curves of the labels that rank their images worst, and how many labels have none.

    Args:
        probability_NL: 0 to 1.
        label_NL: 0 to 1, positive from 0.5, NaN where not annotated.
        called_NL: bool, decisions of the model.
        names: of the labels.

    Returns:
        `labels` (name -> `roc` and `pr`, points (x, y) of scikit-learn's curves, `prevalence`,
        and where decisions are made: `called_roc`, `called_pr`, None where nothing is called), of up to
        `MAX_LABELS` labels with both classes, the lowest AUROC first; `left_out`, of those with both classes.
    """
    # heavy: takes 1 s and more, which should not delay `--help`
    from sklearn.metrics import roc_auc_score

    entries = []
    for i, name in enumerate(names):
        known_N = ~np.isnan(label_NL[:, i])
        truth_N, score_N = is_positive(label_NL[known_N, i]), probability_NL[known_N, i]
        if truth_N.any() and not truth_N.all():
            auroc = float(roc_auc_score(truth_N, score_N))
            entries.append((auroc, name, truth_N, score_N, called_NL[known_N, i]))
    entries.sort(key=lambda entry: entry[0])
    return {
        "labels": {name: _curves(*rest) for _, name, *rest in entries[:MAX_LABELS]},
        "left_out": max(0, len(entries) - MAX_LABELS),
    }


def _curves(truth_N: np.ndarray, score_N: np.ndarray, called_N: np.ndarray) -> Row:
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_P, true_P, _ = roc_curve(truth_N, score_N)
    precision_P, recall_P, _ = precision_recall_curve(truth_N, score_N, drop_intermediate=True)
    sensitivity = float(np.mean(called_N[truth_N]))
    hits, called = int(np.sum(called_N & truth_N)), int(np.sum(called_N))
    return {
        "roc": thinned(false_P, true_P),
        "pr": thinned(recall_P[::-1], precision_P[::-1]),
        "prevalence": float(np.mean(truth_N)),
        "called_roc": [float(np.mean(called_N[~truth_N])), sensitivity],
        "called_pr": [sensitivity, hits / called] if called else None,
    }


def thinned(x_P: np.ndarray, y_P: np.ndarray) -> list[list[float]]:
    """Return points of a curve, (x, y): up to `MAX_POINTS`, about equally far from each other along it.

    Both ends stay.
    """
    if len(x_P) > MAX_POINTS:
        way_P = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x_P)) + np.abs(np.diff(y_P)))])
        wanted = np.linspace(0, way_P[-1], MAX_POINTS)
        kept = np.unique([0, *np.searchsorted(way_P, wanted[1:-1]), len(x_P) - 1])
        x_P, y_P = x_P[kept], y_P[kept]
    return [[round(float(x), 4), round(float(y), 4)] for x, y in zip(x_P, y_P, strict=True)]
