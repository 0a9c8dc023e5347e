"""A fixed, stratified order of training images, whose first N images train a point of a learning curve.

Systematic sampling from a sorted list (Cochran, Sampling Techniques, 3rd ed., ch. 8): patients are sorted by
their labels, the rarest first, and taken in the order of bit-reversed places (van der Corput), so that every
prefix is spread evenly over the list, and labels occur in it about as often as in all images.

Letters: N images, G groups (patients, or single images), L labels (concepts and targets).
"""

from __future__ import annotations

import numpy as np

from csr.data.labels.positive import is_positive
from csr.data.labels.table import LabelTable
from csr.data.labels.validation_split import count_groups
from csr.runtime.errors import InputError

_OWN_STREAM = 0x6E6573  # the order draws other numbers than the split of the same seed


def first_images(table: LabelTable, train_N: np.ndarray, *, num_images: int, seed: int) -> np.ndarray:
    """Return the first images of the nested order of training images.

    The images of one patient stay together: the last patient who does not fit whole is left out, and so are
    all behind, so that up to `num_images` images are returned. Of one table, split and seed a smaller number
    gives a part of a larger one's images, on any number of ranks.

    Args:
        table: of all images.
        train_N: rows for training, int64, ascending.
        num_images: how many; 0 returns `train_N`.
        seed: of the order.

    Returns:
        Rows of the table, int64, ascending.

    Raises:
        InputError: more than there are, or so few that a concept has no positive image.
    """
    if not num_images:
        return train_N
    if num_images > len(train_N):
        raise InputError(
            f"--num_images {num_images}: {table.path} has {len(train_N)} training images beside those of "
            f"validation: give up to {len(train_N)}, or 0 for all"
        )
    own = table.select(train_N)
    group_N, count_GL, size_G = count_groups(own)
    order_G = nested_order(count_GL, seed=seed)
    end_G = np.cumsum(size_G[order_G])  # images up to and with each patient
    _check_concepts(own, end_G[np.argsort(order_G)][group_N], num_images)
    taken_G = np.zeros(len(size_G), dtype=bool)
    taken_G[order_G[end_G <= num_images]] = True
    return train_N[taken_G[group_N]]


def _check_concepts(own: LabelTable, end_N: np.ndarray, num_images: int) -> None:
    """Raise InputError for a concept without a positive image, with the number that each would have one.

    Args:
        own: the training images.
        end_N: images up to and with each image's patient.
        num_images: as asked for.
    """
    positive_NK = is_positive(own.concept_NK)
    needed = int(end_N.min())
    if positive_NK.any():
        first_K = np.where(positive_NK, end_N[:, None], end_N.max()).min(axis=0)
        needed = max(needed, int(first_K[positive_NK.any(axis=0)].max()))
    if num_images < needed:
        raise InputError(
            f"--num_images {num_images}: some concept has no positive image among so few: give {needed} or "
            "more, or leave rare concepts out with --drop_rare"
        )


def nested_order(count_GL: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the groups in an order of which every prefix is stratified, (G,) int64.

    The order begins with a positive group of each label, the rarest label first, so that no label has to be
    missing from a small prefix; there rare labels are more frequent than in all images.

    Args:
        count_GL: (G, L) int64, positive images of each group and label.
        seed: any integer >= 0.
    """
    rng = np.random.default_rng([seed, _OWN_STREAM])
    has_GL = count_GL > 0
    rarest_L = np.argsort(has_GL.sum(0), kind="stable")
    drawn_G = rng.permutation(len(has_GL))  # decides among groups of the same labels
    keys = [~has_GL[drawn_G, label] for label in rarest_L[::-1]]  # numpy sorts by the last key first
    sorted_G = drawn_G[np.lexsort(keys)] if keys else drawn_G
    turned_G = np.roll(sorted_G, int(rng.integers(max(1, len(sorted_G)))))
    spread_G = turned_G[_bit_reversed(len(turned_G))]
    first = _one_of_each(has_GL[spread_G], rarest_L)
    is_rest_G = np.ones(len(spread_G), dtype=bool)
    is_rest_G[first] = False
    return np.concatenate([spread_G[first], spread_G[is_rest_G]])


def _bit_reversed(number: int) -> np.ndarray:
    """Return 0 to number - 1, each next one far from those before: 0, n/2, n/4, 3n/4, ..; int64."""
    bits = max(1, (number - 1).bit_length())
    place = np.arange(2**bits)
    reversed_ = np.zeros_like(place)
    for bit in range(bits):
        reversed_ |= ((place >> bit) & 1) << (bits - 1 - bit)
    return reversed_[reversed_ < number]


def _one_of_each(has_GL: np.ndarray, rarest_L: np.ndarray) -> list[int]:
    """Return places of the first group of each label that no earlier one has, the rarest label first."""
    chosen: list[int] = []
    for label in rarest_L:
        if has_GL[:, label].any() and not has_GL[chosen, label].any():
            chosen.append(int(np.argmax(has_GL[:, label])))
    return chosen
