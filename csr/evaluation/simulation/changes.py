"""Decisions that a change fixed and broke: of a doctor's corrections, or of a model refined.

Letters: N images, T targets, V plays, R rows of weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from csr.data.labels.positive import is_positive
from csr.evaluation.bootstrap import Bootstrap, estimate
from csr.evaluation.label_scores import known
from csr.evaluation.simulation.doctor import Play
from csr.evaluation.weighted_metrics import ratio


class _NetMeasure:
    """Fixed minus broken decisions, as a share of all decisions, for weights: weight_RN -> (R,)."""

    def __init__(self, gain_NT: np.ndarray, known_NT: np.ndarray) -> None:
        self._gain_N = np.where(known_NT, gain_NT, 0).sum(axis=1).astype(np.float64)
        self._count_N = known_NT.sum(axis=1).astype(np.float64)

    def __call__(self, weight_RN: np.ndarray) -> np.ndarray:
        return ratio(weight_RN @ self._gain_N, weight_RN @ self._count_N)


def count_changes(
    before_NT: np.ndarray,
    after_NT: np.ndarray,
    target_NT: np.ndarray,
    edited_N: np.ndarray,
    *,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Count the diagnoses that were fixed and those that were broken. Collective.

    Args:
        before_NT, after_NT: bool, called before and after the corrections.
        target_NT: labels, NaN where not annotated.
        edited_N: bool, images that were corrected.
        bootstrap: of the interval around the net share.

    Returns:
        `images`, `edited` images, `decisions` (annotated image-target pairs), `right_before`, `right_after`,
        `fixed` (wrong, then right), `broken` (right, then wrong), `net` {value, low, high}: (fixed - broken)
        / decisions, `helps`: whether more are fixed than broken
        (None if neither); and of images whose decisions are all right: `images_right_before`, `_after`,
        `images_fixed`, `images_broken`.
    """
    known_NT = ~np.isnan(target_NT)
    truth_NT = is_positive(target_NT)
    right_before, right_after = (before_NT == truth_NT), (after_NT == truth_NT)
    gain_NT = right_after.astype(np.int64) - right_before
    counted_N = known_NT.any(axis=1)
    all_before, all_after = (((r | ~known_NT).all(axis=1) & counted_N) for r in (right_before, right_after))
    net: dict[str, float | None] = {"value": None, "low": None, "high": None}
    if len(known_NT):
        measured = estimate(_NetMeasure(gain_NT, known_NT), num_images=len(known_NT), bootstrap=bootstrap)
        net = {key: known(getattr(measured, key)) for key in net}
    fixed, broken = (int(((gain_NT == step) & known_NT).sum()) for step in (1, -1))
    return {
        "images": int(counted_N.sum()),
        "edited": int((edited_N & counted_N).sum()),
        "decisions": int(known_NT.sum()),
        "right_before": int((right_before & known_NT).sum()),
        "right_after": int((right_after & known_NT).sum()),
        "fixed": fixed,
        "broken": broken,
        "net": net,
        "helps": fixed > broken if fixed or broken else None,
        "images_right_before": int(all_before.sum()),
        "images_right_after": int(all_after.sum()),
        "images_fixed": int((~all_before & all_after & counted_N).sum()),
        "images_broken": int((all_before & ~all_after).sum()),
    }


def score_plays(
    before_NT: np.ndarray,
    after_NVT: np.ndarray,
    target_NT: np.ndarray,
    *,
    edited_NV: np.ndarray,
    doubtful_N: np.ndarray,
    plays: tuple[Play, ...],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return `count_changes` of every play over all images and over the doubtful ones. Collective.

    Args:
        before_NT, after_NVT: bool, called before and after each play.
        target_NT: labels 0 to 1, NaN where not annotated.
        edited_NV: bool, images that each play corrected.
        doubtful_N: bool, images that a doctor is asked about before (`csr.model.doubt.doubts`).
        plays: the V plays.
        bootstrap: of the intervals.

    Returns:
        play's name -> {`all`: .., `doubtful`: ..}.
    """
    subsets = {"all": np.ones(len(doubtful_N), dtype=bool), "doubtful": doubtful_N}
    return {
        play.name: {
            subset: count_changes(
                before_NT[some_N],
                after_NVT[some_N, v],
                target_NT[some_N],
                edited_NV[some_N, v],
                bootstrap=bootstrap,
            )
            for subset, some_N in subsets.items()
        }
        for v, play in enumerate(plays)
    }
