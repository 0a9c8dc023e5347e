"""Remaining reliance: what is left of dropped prototypes in the kept ones.

A diagnosis that is fitted again on the same images can still use what was dropped wherever the kept scores
predict it too: where a mark is in every image of a class, every prototype that is a little higher on marks
will do. So each dropped score is predicted from all kept ones, on training images held out in turn. R^2 of 1:
the kept scores hold all of it; 0 or less: nothing that a linear layer could use.

Letters: N images, K concepts, M prototypes, F = K x M scores, P kept and R dropped prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HIGH = 0.5
FOLDS = 5
MAX_IMAGES = 20_000  # more change a coefficient of determination little, and take memory
_CONSTANT = 1e-6  # a score with a smaller standard deviation carries no usable information


@dataclass(frozen=True)
class Reliance:
    """Coefficients of determination of the dropped scores.

    Attributes:
        r2: (concept, prototype) -> R^2; without those whose score is constant.
        num_images: they were measured on.
    """

    r2: dict[tuple[int, int], float]
    num_images: int

    @property
    def median(self) -> float:
        return float(np.median(list(self.r2.values())))

    @property
    def highest(self) -> float:
        return max(self.r2.values())

    def to_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return plain JSON: median, highest, and R^2 of each by concept and prototype."""
        by_name: dict[str, dict[str, float]] = {}
        for (k, m), value in self.r2.items():
            by_name.setdefault(names[k], {})[str(m)] = value
        return {
            "median_r2": self.median,
            "highest_r2": self.highest,
            "images": self.num_images,
            "r2": by_name,
        }


def remaining_reliance(
    score_NF: np.ndarray, *, kept_KM: np.ndarray, keep_KM: np.ndarray, seed: int
) -> Reliance | None:
    """Return how well kept scores predict the dropped ones.

    None where nothing was dropped, or of too few images.

    Args:
        score_NF: of training images, all prototypes.
        kept_KM: bool, prototypes that the model had.
        keep_KM: bool, those that are left.
        seed: of the folds, and of the images if there are more than MAX_IMAGES.
    """
    rng = np.random.default_rng(seed)
    if len(score_NF) > MAX_IMAGES:
        score_NF = score_NF[np.sort(rng.choice(len(score_NF), MAX_IMAGES, replace=False))]
    score_NF = score_NF.astype(np.float64)
    varies_F = score_NF.std(axis=0) > _CONSTANT
    dropped_R = np.flatnonzero((kept_KM & ~keep_KM).ravel() & varies_F)
    kept_P = np.flatnonzero(keep_KM.ravel() & varies_F)
    if not len(dropped_R) or len(score_NF) < 2 * FOLDS:
        return None
    value_R = np.zeros(len(dropped_R))
    if len(kept_P):
        model = make_pipeline(StandardScaler(), Ridge())
        folds = KFold(FOLDS, shuffle=True, random_state=seed)
        target_NR = StandardScaler().fit_transform(score_NF[:, dropped_R])
        predicted_NR = cross_val_predict(model, score_NF[:, kept_P], target_NR, cv=folds)
        value_R = r2_score(target_NR, predicted_NR.reshape(target_NR.shape), multioutput="raw_values")
    num_per_concept = keep_KM.shape[1]
    places = [divmod(int(f), num_per_concept) for f in dropped_R]
    return Reliance(dict(zip(places, map(float, value_R), strict=True)), len(score_NF))


def reliance_lines(reliance: Reliance | None, *, head: str) -> list[str]:
    """Return the lines on it for the user."""
    if reliance is None:
        return []
    lines = [
        f"Remaining reliance: kept scores predict dropped ones with R^2 {reliance.median:.2f} (median), "
        f"{reliance.highest:.2f} (highest)"
    ]
    if reliance.highest >= HIGH:
        others = [other for other in ("occlude", "keep") if other != head]
        lines.append(
            "Notice: the diagnoses can still use what was dropped, through the prototypes that are left: "
            "compare "
            f"{' and '.join(f'--head {other}' for other in others)}, or train again with more images "
            "without it."
        )
    return lines
