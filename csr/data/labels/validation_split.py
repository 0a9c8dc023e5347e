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
    group_N = _groups(table)
    num_groups = int(group_N.max()) + 1
    if num_groups < 2:
        raise InputError(f"{table.path}: one image or patient cannot be split; add more images")
    positive_NL = is_positive(np.concatenate([table.concept_NK, table.target_NT], axis=1))
    count_GL = np.zeros((num_groups, positive_NL.shape[1]), dtype=np.int64)
    np.add.at(count_GL, group_N, positive_NL)
    size_G = np.bincount(group_N, minlength=num_groups)
    side_G = _stratify(count_GL, size_G, fraction, np.random.default_rng(seed))
    _repair(side_G, count_GL > 0, size_G)
    validation_N = side_G[group_N]
    if not validation_N.any():
        raise InputError(
            f"{table.path}: no image can be kept for validation, each of the {num_groups} images or patients "
            "is the only positive one of some label; add images, or leave rare concepts out with --drop_rare"
        )
    return np.flatnonzero(~validation_N), np.flatnonzero(validation_N)


def _groups(table: LabelTable) -> np.ndarray:
    """Return each image's group, (N,) int64, numbered by first appearance."""
    patients = table.patient_ids or ("",) * len(table)
    number: dict[object, int] = {}
    keys = [patient or (index,) for index, patient in enumerate(patients)]
    return np.asarray([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)


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
    while free_G.any():
        left_L = (count_GL[free_G] > 0).sum(0)
        label = int(np.argmin(np.where(left_L > 0, left_L, len(count_GL) + 1)))
        group_F = rng.permutation(np.flatnonzero(free_G & (count_GL[:, label] > 0)))
        missing = wanted_L[label] - count_GL[side_G, label].sum()
        # Groups are taken while half of the next one still fits: the nearest to what is missing.
        amount_F = count_GL[group_F, label]
        taken_F = np.cumsum(amount_F) - amount_F / 2 <= missing
        side_G[group_F[taken_F]] = True
        free_G[group_F] = False
    return side_G


def _repair(side_G: np.ndarray, has_GL: np.ndarray, size_G: np.ndarray) -> None:
    """Move groups until labels that can be on both sides are, and training lacks none.

    Args:
        side_G: (G,) bool, True for validation; changed in place.
        has_GL: (G, L) bool, whether a group has a positive image of a label.
        size_G: (G,) int64, images of each group.
    """
    has_GL = np.concatenate([has_GL, np.ones((len(has_GL), 1), dtype=bool)], axis=1)
    total_L = has_GL.sum(0)
    order_L = np.argsort(total_L, kind="stable")
    for label in order_L:  # validation first: what training must keep is settled last
        # A side as a whole (the last column) needs one group each, however few there are.
        least = 2 if label == len(total_L) - 1 else MIN_GROUPS_FOR_BOTH
        if total_L[label] >= least and not has_GL[side_G, label].any():
            spare_G = ~has_GL[:, (has_GL[~side_G].sum(0) < 2)].any(1)
            _move(side_G, ~side_G & has_GL[:, label] & spare_G, size_G)
    for label in order_L:
        if total_L[label] >= 1 and not has_GL[~side_G, label].any():
            _move(side_G, side_G & has_GL[:, label], size_G)


def _move(side_G: np.ndarray, candidate_G: np.ndarray, size_G: np.ndarray) -> None:
    """Move the smallest candidate (G,) to the other side in place, if there is one."""
    candidates = np.flatnonzero(candidate_G)
    if len(candidates):
        chosen = candidates[np.argmin(size_G[candidates])]
        side_G[chosen] = ~side_G[chosen]
