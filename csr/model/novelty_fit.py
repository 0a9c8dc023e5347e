"""Statistics of training images, and the limit of what is unlike them, from validation images.

Letters: N images, D numbers of a statistic, A axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from csr.model.image_statistics import STATISTICS
from csr.model.novelty import MIN_IMAGES, Novelty, Space

MAX_AXES = 16
FALSE_ALARMS = 0.05
NUM_FOLDS = 5
_LEAST_SPREAD = 0.05


def fit_novelty(train: Mapping[str, torch.Tensor], val: Mapping[str, torch.Tensor]) -> Novelty | None:
    """Describe training images, and choose the limit on validation images.

    The limit is exceeded by at most `FALSE_ALARMS` of images like those of validation, on average over
    validation sets: each of them is scored on the scale of the other folds, and the limit is the score whose
    rank among N is 0.95 (N + 1), rounded up.

    Args:
        train, val: rows of `image_statistics`.

    Returns:
        None with fewer than `MIN_IMAGES` of either kind.
    """
    num = len(val["features"]) if val else 0
    if min(num, len(train["features"]) if train else 0) < MIN_IMAGES:
        return None
    fold_N = torch.arange(num) % NUM_FOLDS
    spaces, unseen = {}, []
    for name, (_, noise) in STATISTICS.items():
        plain = fit_space(train[name], noise=noise)
        log_N = plain.log_distance(val[name])
        unseen_N = torch.empty_like(log_N)
        for f in range(NUM_FOLDS):
            usual, spread = _scale(log_N[fold_N != f])
            unseen_N[fold_N == f] = (log_N[fold_N == f] - usual) / spread
        unseen.append(unseen_N)
        spaces[name] = Space(plain.mean_D, plain.axis_AD, plain.variance_A, plain.rest, *_scale(log_N))
    rank = min(num, math.ceil((1 - FALSE_ALARMS) * (num + 1)))
    limit = float(torch.stack(unseen).amax(dim=0).sort().values[rank - 1])
    return Novelty(spaces, limit, num)


def _scale(log_N: torch.Tensor) -> tuple[float, float]:
    return float(log_N.mean()), max(float(log_N.std()), _LEAST_SPREAD)


def fit_space(value_ND: torch.Tensor, *, noise: float) -> Space:
    """Fit mean and covariance of a statistic.

    With fewer images than numbers the axes come from the inner products of the images, (N, N), which have the
    eigenvalues of the covariance (Turk and Pentland 1991): that matrix takes 128 MB for 4000 images, however
    many prototypes there are.

    Args:
        value_ND: of training images, N > 1; NaN counts as the mean.
        noise: standard deviation that is added to every direction.
    """
    value_ND = value_ND.double().cpu()
    mean_D = value_ND.nanmean(dim=0).nan_to_num(0.0)
    centred_ND = (value_ND - mean_D).nan_to_num_(0.0)
    num, length = centred_ND.shape
    axes = min(MAX_AXES, length, num - 1)
    if num < length:
        variance_A, column_NA, total = _largest(centred_ND @ centred_ND.T / (num - 1), axes)
        # QR gives the columns length 1, and makes some up where images have fewer axes than that
        axis_AD = torch.linalg.qr(centred_ND.T @ column_NA).Q.T.contiguous()
    else:
        variance_A, column_DA, total = _largest(centred_ND.T @ centred_ND / (num - 1), axes)
        axis_AD = column_DA.T.contiguous()
    left = max(0.0, total - float(variance_A.sum())) / max(1, length - axes)
    # rounded axes leave a little of every direction over: 1e-6 of the largest variance is none of its own
    rest = left + noise**2 + 1e-6 * float(variance_A[0])
    return Space(mean_D, axis_AD, variance_A + noise**2, rest)


def _largest(matrix: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return the largest eigenvalues of a symmetric matrix, their eigenvectors as columns, and its trace."""
    value, column = torch.linalg.eigh(matrix)
    return value.flip(0)[:number].clamp_min(0), column.flip(1)[:, :number], float(matrix.trace())
