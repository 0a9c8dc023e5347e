"""Folds for cross-validation: iterative stratification (Sechidis et al. 2011) over several sides at once.

scikit-learn's StratifiedGroupKFold stratifies one label; images here have many.

Letters: N images, G groups (patients, or single images), L labels (concepts and targets), F folds.
"""

from __future__ import annotations

import numpy as np

from csr.data.labels.table import LabelTable
from csr.data.labels.validation_split import count_groups
from csr.runtime.errors import InputError

ALWAYS_TRAINING = -1


def fold_of_images(table: LabelTable, *, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each image, which validates it and no other.

    The folds depend on the table, their number and the seed only, so every rank and every fold's run computes
    the same. Images of one patient stay together (an image whose patient is unknown is a group of its own).
    Positives of every label spread over the folds as evenly as possible. As in `split_validation` training
    lacks no label that it can have: the one positive patient or image of a label is in no fold.

    Args:
        table: of N images.
        folds: F, 2 or more.
        seed: any integer >= 0.

    Returns:
        0 to F - 1, or `ALWAYS_TRAINING`: (N,) int64.

    Raises:
        InputError: fewer patients or images that can validate than folds.
    """
    group_N, count_GL, size_G = count_groups(table)
    has_GL = count_GL > 0
    fold_G = np.zeros(len(size_G), dtype=np.int64)
    fold_G[has_GL[:, has_GL.sum(0) == 1].any(1)] = ALWAYS_TRAINING
    num_free = int(np.sum(fold_G != ALWAYS_TRAINING))
    if num_free < folds:
        raise InputError(
            f"{table.path}: {num_free} images or patients can validate, too few for {folds} folds: give "
            "fewer --folds, or leave rare concepts out with --drop_rare"
        )
    _stratify(fold_G, count_GL, size_G, folds, np.random.default_rng([seed, folds]))
    _fill_empty(fold_G, size_G, folds)
    _keep_in_training(fold_G, has_GL, size_G)
    for fold in range(folds):
        if not (fold_G == fold).any():
            raise InputError(f"{table.path}: no image is left for fold {fold} of {folds}: give fewer --folds")
    return fold_G[group_N]


def _stratify(
    fold_G: np.ndarray, count_GL: np.ndarray, size_G: np.ndarray, folds: int, rng: np.random.Generator
) -> None:
    """Give every free group a fold, in place: those of the rarest label first, then those of the next.

    Args:
        fold_G: (G,) int64; `ALWAYS_TRAINING` stays.
        count_GL: (G, L) int64, positive images of each group and label.
        size_G: (G,) int64, images of each group.
        folds: F.
        rng: decides the order of equally good groups, and between equally good folds.
    """
    # the last column stands for 'an image': it takes groups without labels and evens out the sizes
    count_GL = np.concatenate([count_GL, size_G[:, None]], axis=1)
    free_G = fold_G != ALWAYS_TRAINING
    total_L = count_GL[free_G].sum(0)
    missing_FL = np.tile(total_L / folds, (folds, 1))
    left_L = (count_GL[free_G] > 0).sum(0)  # free groups with each label
    while left_L.any():
        label = int(np.argmin(np.where(left_L > 0, left_L, len(count_GL) + 1)))
        groups = rng.permutation(np.flatnonzero(free_G & (count_GL[:, label] > 0)))
        for group in groups[np.argsort(-count_GL[groups, label], kind="stable")]:  # what fits worst first
            own = np.flatnonzero(count_GL[group])
            # of folds that lack this label alike: the one that lacks most of the group's other labels
            others_F = (missing_FL[:, own] / total_L[own]).sum(1).round(9)
            place = np.lexsort((rng.random(folds), -others_F, -missing_FL[:, label]))[0]
            fold_G[group] = place
            missing_FL[place, own] -= count_GL[group, own]
        free_G[groups] = False
        left_L -= (count_GL[groups] > 0).sum(0)


def _fill_empty(fold_G: np.ndarray, size_G: np.ndarray, folds: int) -> None:
    """Move the smallest group of the fold with the most groups to each fold without any, in place."""
    for fold in range(folds):
        if not (fold_G == fold).any():
            count_F = np.bincount(fold_G[fold_G >= 0], minlength=folds)
            candidates = np.flatnonzero(fold_G == int(np.argmax(count_F)))
            fold_G[candidates[np.argmin(size_G[candidates])]] = fold


def _keep_in_training(fold_G: np.ndarray, has_GL: np.ndarray, size_G: np.ndarray) -> None:
    """Take the smallest group out of a fold that has all groups of a label, in place."""
    for has_G in has_GL.T:
        held = np.unique(fold_G[has_G])
        if len(held) == 1 and held[0] != ALWAYS_TRAINING:
            candidates = np.flatnonzero(has_G)
            fold_G[candidates[np.argmin(size_G[candidates])]] = ALWAYS_TRAINING
