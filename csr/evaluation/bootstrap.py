"""Intervals: of proportions by Wilson's formula, of all else by bootstrap.

Bootstrap: images are drawn with replacement, and all quantities measured on the same resamples.

A resample is a row of weights, how often each image was drawn; it depends on the seed and its own number
alone, so that the intervals are the same for any number of ranks. scipy.stats.bootstrap passes the resampled
data of one quantity, a thousand calls for each score of each label; rows of weights measure all labels of
hundreds of resamples in one matrix product, and ranks share them.

Letters: N images, R resamples, Q quantities; `value_R...` has any shape behind R.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from csr.runtime import distributed

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
MAX_CELLS = 2**22  # numbers in one array of a chunk: 32 MiB
Measure = Callable[[np.ndarray], np.ndarray]  # weight_RN -> value_R...


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the intervals.

    Attributes:
        num_resamples: R; 0: no intervals.
        seed: of the resamples.
    """

    num_resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Estimate:
    """Values on all images, and their 95 % intervals; three arrays of one shape, NaN where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw_weights(num_images: int, resamples: Sequence[int], *, seed: int) -> np.ndarray:
    """Return how often each resample drew each image: weight_RN, float64, rows that sum to N."""
    rows = [np.bincount(drawn_images(num_images, r, seed=seed), minlength=num_images) for r in resamples]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), num_images)


def drawn_images(num_images: int, resample: int, *, seed: int) -> np.ndarray:
    """Return the N images of one resample, int64, with repetitions."""
    return np.random.default_rng([seed, resample]).integers(num_images, size=num_images)


def estimate(
    measure: Measure, *, num_images: int, bootstrap: Bootstrap, cells_per_image: int = 1
) -> Estimate:
    """Measure all images and the resamples; every rank gets the values and their intervals. Collective.

    Args:
        measure, num_images, bootstrap, cells_per_image: see `resampled`.

    Returns:
        Values and intervals, in the shape of one row of `measure`.
    """
    value, value_R = resampled(
        measure, num_images=num_images, bootstrap=bootstrap, cells_per_image=cells_per_image
    )
    return Estimate(value, *limits(value_R))


def resampled(
    measure: Measure, *, num_images: int, bootstrap: Bootstrap, cells_per_image: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Measure all images and the resamples; ranks share the work, every rank gets the result. Collective.

    Args:
        measure: weight_RN -> value_R..., NaN where there is no value.
        num_images: N.
        bootstrap: how many resamples, and their seed.
        cells_per_image: numbers that `measure` holds for each image of a resample.

    Returns:
        The values of all images, and value_R... of the resamples.
    """
    value = measure(np.ones((1, num_images)))[0]
    rank, world = distributed.rank(), distributed.world_size()
    if not distributed.is_initialized():
        rank, world = 0, 1
    share = range(rank, bootstrap.num_resamples, world)
    rows = max(1, MAX_CELLS // max(1, num_images * cells_per_image))
    parts = [
        measure(draw_weights(num_images, share[i : i + rows], seed=bootstrap.seed))
        for i in range(0, len(share), rows)
    ]
    own = np.concatenate(parts) if parts else np.zeros((0, *value.shape))
    value_R = np.zeros((bootstrap.num_resamples, *value.shape))
    for r, part in enumerate(distributed.all_gather_object(own)):
        value_R[r::world] = part
    return value, value_R


def limits(value_R: np.ndarray, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval of each quantity, (low, high), each of the shape behind R.

    Resamples without a value (none of a rare label was drawn) are omitted; where fewer than half of them
    have one there is no interval (NaN).

    Args:
        value_R: value_R..., NaN where a resample has no value.
        level: share of the resamples in the interval.
    """
    flat_RQ = value_R.reshape(len(value_R), math.prod(value_R.shape[1:]))
    low_Q, high_Q = np.full((2, flat_RQ.shape[1]), np.nan)
    for q in range(flat_RQ.shape[1]):
        known = flat_RQ[~np.isnan(flat_RQ[:, q]), q]
        if len(known) and 2 * len(known) >= len(value_R):
            low_Q[q], high_Q[q] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return low_Q.reshape(value_R.shape[1:]), high_Q.reshape(value_R.shape[1:])


def wilson(share: float, number: int) -> tuple[float, float]:
    """Return the 95 % score interval (Wilson 1927) of a proportion, (low, high), within 0 to 1.

    A bootstrap of 21 hits in 21 images gives 1 to 1; this gives 0.845 to 1.

    Args:
        share: of hits among independent entries.
        number: of these entries; 0 gives NaN.
    """
    if not number:
        return math.nan, math.nan
    square = _Z**2 / number
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / number + square / (4 * number))
    # at the ends the formula is exact, rounding is not
    low, high = (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)
    return low, high


def proportion_limits(
    score: dict[str, float | None], number: int, *, clustered: bool = False
) -> dict[str, float | None]:
    """Return a proportion {value, low, high} with Wilson's interval in place of the bootstrap's.

    Args:
        score: with the interval of the bootstrap.
        number: of entries; of images where several entries come from one image.
        clustered: whether entries share images. Wilson's formula takes entries as independent: the bootstrap
            stays, except where all or none are hits, for then it has no width.
    """
    value = score["value"]
    if value is None or (clustered and 0 < value < 1):
        return score
    low, high = wilson(value, number)
    return {"value": value, "low": low, "high": high}
