"""Multi-label metrics of a training run, by scikit-learn, over the entries that are annotated.

Letters: N images, L labels (K concepts or T targets).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csr.data.labels.positive import is_positive
from csr.model.sharing.reference import DEFAULT_THRESHOLD


@dataclass(frozen=True)
class Metrics:
    """Macro and per-label scores; NaN where a label has one class only (omitted from the macro mean)."""

    auc: float
    mean_ap: float
    f1_macro: float
    f1_micro: float
    auc_by_label: dict[str, float]
    ap_by_label: dict[str, float]
    f1_by_label: dict[str, float]

    def summary(self) -> dict[str, float]:
        """Return the four scores over all labels, by the names that logs and results.json use."""
        return {"auc": self.auc, "map": self.mean_ap, "f1_macro": self.f1_macro, "f1_micro": self.f1_micro}


def multilabel_metrics(
    probability_NL: np.ndarray,
    label_NL: np.ndarray,
    *,
    names: Sequence[str],
    threshold: float = DEFAULT_THRESHOLD,
) -> Metrics:
    """Return AUROC, average precision and F1 of every label over its annotated images.

    Args:
        probability_NL: 0 to 1.
        label_NL: 0, 1 or NaN (not annotated); soft labels count as positive from 0.5.
        names: of the L labels.
        threshold: of F1, on the probability.
    """
    # heavy: takes 1 s and more, which should not delay a run's first step
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    known_NL = ~np.isnan(label_NL)
    truth_NL = is_positive(label_NL)
    guess_NL = probability_NL >= threshold
    auc, ap, f1 = {}, {}, {}
    for i, name in enumerate(names):
        known = known_NL[:, i]
        truth, score = truth_NL[known, i], probability_NL[known, i]
        both = truth.any() and not truth.all()
        auc[name] = float(roc_auc_score(truth, score)) if both else float("nan")
        # of a label that every image has it would be 1, whatever the scores
        ap[name] = float(average_precision_score(truth, score)) if both else float("nan")
        f1[name] = (
            float(f1_score(truth, guess_NL[known, i], zero_division=0)) if truth.any() else float("nan")
        )
    micro = f1_score(truth_NL[known_NL], guess_NL[known_NL], zero_division=0) if known_NL.any() else np.nan
    return Metrics(
        auc=_mean(auc),
        mean_ap=_mean(ap),
        f1_macro=_mean(f1),
        f1_micro=float(micro),
        auc_by_label=auc,
        ap_by_label=ap,
        f1_by_label=f1,
    )


def _mean(by_label: dict[str, float]) -> float:
    values = [value for value in by_label.values() if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")
