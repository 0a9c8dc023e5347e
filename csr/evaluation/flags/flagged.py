"""How often the notes that warn a reader appear on labelled images.

Letters: N images, T targets, S statistics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from csr.data.labels.positive import is_positive
from csr.evaluation.bootstrap import wilson
from csr.model.doubt import DoubtRule, choose_limit, doubts, exclusive_targets, margins
from csr.model.image_statistics import STATISTICS
from csr.model.sharing.card import Card


def rate(hits: int, number: int) -> dict[str, float | int | None]:
    """Return a share with Wilson's interval, 95 %: `value`, `low`, `high`, `hits`, `n`; None of no images."""
    if not number:
        return {"value": None, "low": None, "high": None, "hits": hits, "n": number}
    low, high = wilson(hits / number, number)
    return {"value": hits / number, "low": low, "high": high, "hits": hits, "n": number}


def measure_novelty(rows: dict[str, torch.Tensor], card: Card) -> dict[str, Any] | None:
    """Count the images that the model takes for unlike its training images.

    Args:
        rows: of `csr.evaluation.measure.predict_all`, `novelty` (N, S) among them.
        card: of the model.

    Returns:
        The `rate` of flagged images, with `limit`, and `by`: statistic -> images above the limit by it; None
        where the card has no statistics of training images.
    """
    novelty = card.reference.novelty
    if novelty is None:
        return None
    above_NS = ~(rows["novelty"] <= novelty.limit)
    return {
        **rate(int(above_NS.any(dim=1).sum()), len(above_NS)),
        "limit": novelty.limit,
        "by": dict(zip(STATISTICS, above_NS.sum(dim=0).tolist(), strict=True)),
    }


def wrong_images(called_NT: np.ndarray, target_NT: np.ndarray) -> np.ndarray:
    """Return the images with at least one wrong diagnosis among those annotated, bool (N,)."""
    wrong_N: np.ndarray = ((called_NT != is_positive(target_NT)) & ~np.isnan(target_NT)).any(axis=1)
    return wrong_N


def choose_doubt(
    card: Card, logit_NT: torch.Tensor, target_NT: np.ndarray, train: dict[str, np.ndarray]
) -> DoubtRule | None:
    """Choose when a doctor is asked, for `SENSITIVITY` of the wrong validation images.

    Args:
        card: with thresholds and calibration.
        logit_NT, target_NT: of validation images.
        train: `target` (N, T) and `concept` (N, K) of training images, for diagnoses that exclude the others.

    Returns:
        None with fewer than `MIN_WRONG` wrong images.
    """
    probability_NT = card.probability(logit_NT)
    called_NT = card.called(probability_NT)
    exclusive_T = exclusive_targets(*(torch.from_numpy(train[kind]) for kind in ("target", "concept")))
    margin_N = margins(probability_NT, called_NT, exclusive_T=exclusive_T, exactly_one=card.exactly_one)
    wrong_N = torch.from_numpy(wrong_images(called_NT.numpy(), target_NT))
    chosen = choose_limit(margin_N, wrong_N)
    if chosen is None:
        return None
    names = [name for name, alone in zip(card.target_names, exclusive_T.tolist(), strict=True) if alone]
    return DoubtRule(*chosen, int(wrong_N.sum()), () if card.exactly_one else tuple(names))


def measure_doubt(rows: dict[str, torch.Tensor], target_NT: np.ndarray, card: Card) -> dict[str, Any]:
    """Count the images with a wrong and with only right diagnoses that a doctor is asked about.

    Args:
        rows: of `csr.evaluation.measure.predict_all`.
        target_NT: labels.
        card: of the model.

    Returns:
        `sensitivity`: `rate` of the wrong images that are flagged; `specificity`: of the right images that
        are not; `measured_rule`: whether the limit was chosen on validation images.
    """
    flagged_N = np.array([line is not None for line in doubts(card, rows["target"])])
    wrong_N = wrong_images(card.called(rows["target"]).numpy(), target_NT)
    return {
        "sensitivity": rate(int((flagged_N & wrong_N).sum()), int(wrong_N.sum())),
        "specificity": rate(int((~flagged_N & ~wrong_N).sum()), int((~wrong_N).sum())),
        "measured_rule": card.reference.doubt is not None,
    }
