"""Which images of a training table train and which validate: a fraction or a fold, and the first to train."""

from __future__ import annotations

import numpy as np

from csr.data.labels.folds import fold_of_images
from csr.data.labels.table import LabelTable
from csr.data.labels.validation_split import split_validation
from csr.data.nested_order import first_images


def split_training(
    table: LabelTable,
    *,
    fraction: float,
    seed: int,
    folds: int | None = None,
    fold: int | None = None,
    num_images: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Split a table into training and validation images: by a fraction, or by one of several folds.

    Args:
        table: the training table of N images.
        fraction: share of the images for validation; of no meaning with folds.
        seed: of the split or of the folds, and of the order of training images.
        folds: how many; None splits by the fraction.
        fold: which one is for validation, from 0.
        num_images: train on the first so many training images of the nested order, 0: on all; the validation
            images are the same for any number.

    Returns:
        Rows of the table for training and for validation, int64, ascending; without `num_images` N together.

    Raises:
        InputError: the table cannot be split so, or has fewer training images.
    """
    if folds is None or fold is None:
        train_N, val_N = split_validation(table, fraction=fraction, seed=seed)
    else:
        fold_N = fold_of_images(table, folds=folds, seed=seed)
        train_N, val_N = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
    return first_images(table, train_N, num_images=num_images, seed=seed), val_N
