"""A linear probe: logistic regression from features to each target, the same for every kind of features.

Letters: N images, F features, T targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csr.data.labels.positive import is_positive
from csr.runtime import distributed

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of scikit-learn: small is strong regularisation
MAX_STEPS = 2000


@dataclass(frozen=True, eq=False)
class Probed:
    """What a probe says of test images.

    Attributes:
        score_NT: log odds of each target; NaN of one that the training images have in one class alone.
        strength: C that was taken.
    """

    score_NT: np.ndarray
    strength: float


def learnable(target_NT: np.ndarray) -> np.ndarray:
    """Return which targets have positive and negative images, bool (T,)."""
    known_NT = ~np.isnan(target_NT)
    positive_NT = is_positive(target_NT)
    return positive_NT.any(axis=0) & (known_NT & ~positive_NT).any(axis=0)


def probe(
    train_NF: np.ndarray,
    target_NT: np.ndarray,
    *,
    val_NF: np.ndarray,
    val_target_NT: np.ndarray,
    test_NF: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
) -> Probed:
    """Fit scikit-learn's LogisticRegression on training images, for each target of its own. Collective.

    Features are standardised by the training images; one that is not known there is the mean. Of `strengths`
    that with the lowest log loss on the validation images, summed over the targets, is taken for all targets
    (the first of equals; the middle one where they have no label). Ranks share the fits.

    Args:
        train_NF, val_NF, test_NF: features, NaN where not known.
        target_NT, val_target_NT: labels, NaN where not annotated; such images are left out of that target.
        strengths: values of C to choose from.
    """
    from sklearn.linear_model import LogisticRegression

    mean_F, sd_F = _scale(train_NF)
    train, val, test = (_standardised(x_NF, mean_F, sd_F) for x_NF in (train_NF, val_NF, test_NF))
    targets = np.flatnonzero(learnable(target_NT)).tolist()
    jobs = [(target, strength) for target in targets for strength in strengths]
    own: dict[tuple[int, float], tuple[np.ndarray, float]] = {}
    rank, world = distributed.rank(), distributed.world_size()
    if not distributed.is_initialized():
        rank, world = 0, 1
    with distributed.errors_agreed():
        for target, strength in jobs[rank::world]:
            known_N = ~np.isnan(target_NT[:, target])
            fitted = LogisticRegression(C=strength, max_iter=MAX_STEPS).fit(
                train[known_N], is_positive(target_NT[known_N, target])
            )
            loss = _log_loss(fitted.decision_function(val) if len(val) else None, val_target_NT[:, target])
            own[target, strength] = (fitted.decision_function(test), loss)
    fits = {job: fit for part in distributed.all_gather_object(own) for job, fit in part.items()}
    losses = [sum(fits[target, strength][1] for target in targets) for strength in strengths]
    has_labels = bool(targets) and bool((~np.isnan(val_target_NT[:, targets])).any())
    strength = strengths[int(np.argmin(losses)) if has_labels else len(strengths) // 2]
    score_NT = np.full((len(test), target_NT.shape[1]), np.nan)
    for target in targets:
        score_NT[:, target] = fits[target, strength][0]
    return Probed(score_NT, strength)


def _scale(train_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of what is known of each feature, 0 and 1 where nothing is."""
    known_NF = ~np.isnan(train_NF)
    count_F = np.maximum(known_NF.sum(axis=0), 1)
    mean_F = np.where(known_NF, train_NF, 0.0).sum(axis=0) / count_F
    square_F = np.where(known_NF, (train_NF - mean_F) ** 2, 0.0).sum(axis=0) / count_F
    return mean_F, np.where(square_F > 0, np.sqrt(square_F), 1.0)


def _standardised(x_NF: np.ndarray, mean_F: np.ndarray, sd_F: np.ndarray) -> np.ndarray:
    return np.nan_to_num((x_NF - mean_F) / sd_F, nan=0.0)


def _log_loss(score_N: np.ndarray | None, target_N: np.ndarray) -> float:
    """Return the mean log loss of annotated images; 0 without any."""
    known_N = ~np.isnan(target_N)
    if score_N is None or not known_N.any():
        return 0.0
    sign_N = np.where(is_positive(target_N[known_N]), 1.0, -1.0)
    return float(np.mean(np.logaddexp(0.0, -sign_N * score_N[known_N])))
