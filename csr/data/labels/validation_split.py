"""The validation split: iterative stratification (Sechidis et al. 2011), patient by patient.

Letters: N images, G groups (patients, or single images), L labels (concepts and targets).
"""

from __future__ import annotations

import numpy as np

from csr.data.labels.positive import is_positive
from csr.data.labels.table import LabelTable
from csr.runtime.errors import InputError

MIN_GROUPS_FOR_BOTH = 3  # a label with fewer positive groups goes to training alone


def split_validation(table: LabelTable, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a table into training and validation images.

    The split depends on the table and the seed only, so every rank computes the same. Images of one patient
    stay together (an image whose patient is unknown is a group of its own). Of the positives of every label
    `fraction` goes to validation, as nearly as possible; a label with two positive patients or images keeps
    one in training, one with at least `MIN_GROUPS_FOR_BOTH` has one on each side where possible.

    Args:
        table: the training table of N images.
        fraction: share of the images for validation, in (0, 1).
        seed: any integer >= 0.

    Returns:
        Rows of the table for training and for validation, int64, ascending, N together.

    Raises:
        InputError: fraction out of range, fewer than two images or patients, or none that can
            be spared.
    """
    if not 0 < fraction < 1:
        raise InputError(f"validation fraction {fraction} is not between 0 and 1; give e.g. 0.1")
    group_N, count_GL, size_G = count_groups(table)
    num_groups = len(size_G)
    if num_groups < 2:
        raise InputError(f"{table.path}: one image or patient cannot be split; add more images")
    side_G = _stratify(count_GL, size_G, fraction, np.random.default_rng(seed))
    _repair(side_G, count_GL > 0, size_G)
    validation_N = side_G[group_N]
    if not validation_N.any():
        raise InputError(
            f"{table.path}: no image can be kept for validation, each of the {num_groups} images or patients "
            "is the only positive one of some label; add images, or leave rare concepts out with --drop_rare"
        )
    return np.flatnonzero(~validation_N), np.flatnonzero(validation_N)


def count_groups(table: LabelTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return patients, or single images, as groups that stay together.

    Returns:
        The group of each image (N,), the positive images of each group and label (G, L), concepts before
        targets, and the images of each group (G,); all int64.
    """
    group_N = _groups(table)
    positive_NL = is_positive(np.concatenate([table.concept_NK, table.target_NT], axis=1))
    return group_N, _sums(positive_NL, group_N), np.bincount(group_N)


def _groups(table: LabelTable) -> np.ndarray:
    """Return each image's group, (N,) int64, numbered by first appearance."""
    patients = table.patient_ids or ("",) * len(table)
    number: dict[object, int] = {}
    keys = [patient or (index,) for index, patient in enumerate(patients)]
    return np.asarray([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)


def _sums(positive_NL: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Return the positive images of each group and label, (G, L) int64; no group is empty."""
    order_N = np.argsort(group_N, kind="stable")
    first_G = np.searchsorted(group_N[order_N], np.arange(int(group_N.max()) + 1))
    return np.add.reduceat(positive_NL[order_N].astype(np.int64), first_G, axis=0)


def _stratify(
    count_GL: np.ndarray, size_G: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Return which groups are for validation, (G,) bool: rarest label first, then the next.

    Args:
        count_GL: (G, L) int64, positive images of each group and label.
        size_G: (G,) int64, images of each group.
        fraction: share of the images for validation.
        rng: decides the order of equally good groups.
    """
    # The last column stands for 'an image': it takes groups without labels and sets the size.
    count_GL = np.concatenate([count_GL, size_G[:, None]], axis=1)
    wanted_L = fraction * count_GL.sum(0)
    free_G = np.ones(len(count_GL), dtype=bool)
    side_G = np.zeros(len(count_GL), dtype=bool)
    left_L = (count_GL > 0).sum(0)  # free groups with each label; brought up to date by the rows that move
    taken_L = np.zeros(count_GL.shape[1], dtype=np.int64)
    while left_L.any():
        label = int(np.argmin(np.where(left_L > 0, left_L, len(count_GL) + 1)))
        group_F = rng.permutation(np.flatnonzero(free_G & (count_GL[:, label] > 0)))
        missing = wanted_L[label] - taken_L[label]
        # Groups are taken while half of the next one still fits: the nearest to what is missing.
        amount_F = count_GL[group_F, label]
        taken_F = np.cumsum(amount_F) - amount_F / 2 <= missing
        side_G[group_F[taken_F]] = True
        free_G[group_F] = False
        taken_L += count_GL[group_F[taken_F]].sum(0)
        left_L -= (count_GL[group_F] > 0).sum(0)
    return side_G


def _repair(side_G: np.ndarray, has_GL: np.ndarray, size_G: np.ndarray) -> None:
    """Move groups until labels that can be on both sides are, and training lacks none.

    Args:
        side_G: (G,) bool, True for validation; changed in place.
        has_GL: (G, L) bool, whether a group has a positive image of a label.
        size_G: (G,) int64, images of each group.
    """
    has_GL = np.concatenate([has_GL, np.ones((len(has_GL), 1), dtype=bool)], axis=1)
    total_L, val_L = has_GL.sum(0), has_GL[side_G].sum(0)  # groups with each label, and those in validation
    order_L = np.argsort(total_L, kind="stable")
    for label in order_L:  # validation first: what training must keep is settled last
        # A side as a whole (the last column) needs one group each, however few there are.
        least = 2 if label == len(total_L) - 1 else MIN_GROUPS_FOR_BOTH
        if total_L[label] >= least and not val_L[label]:
            candidates = np.flatnonzero(~side_G & has_GL[:, label])
            is_spare = ~(has_GL[candidates] & (total_L - val_L < 2)).any(1)
            for chosen in _smallest(candidates[is_spare], size_G):
                side_G[chosen] = True
                val_L += has_GL[chosen]
    for label in order_L:
        if total_L[label] >= 1 and total_L[label] == val_L[label]:
            for chosen in _smallest(np.flatnonzero(side_G & has_GL[:, label]), size_G):
                side_G[chosen] = False
                val_L -= has_GL[chosen]


def _smallest(candidates: np.ndarray, size_G: np.ndarray) -> np.ndarray:
    """Return the smallest of some groups, the first of equal ones; none of none."""
    return candidates[np.argmin(size_G[candidates])][None] if len(candidates) else candidates
