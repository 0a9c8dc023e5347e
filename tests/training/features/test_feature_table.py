"""The table of cached rows against a plain list of lists."""

from __future__ import annotations

import numpy as np

from csr.training.features.table import build_feature_table

ROWS_OF_IMAGE = {0: [10, 11], 1: [], 2: [20], 3: [30, 31, 32]}


def table():
    """Rows as two ranks compute them, out of order."""
    first = {"image": np.array([3, 3, 3, 0, 0]), "value": np.array([30, 31, 32, 10, 11])}
    second = {"image": np.array([2]), "value": np.array([20])}
    return build_feature_table([first, {}, second], num_images=4)


def test_rows_are_sorted_by_image_whatever_rank_computed_them():
    assert table().all("value").tolist() == [10, 11, 20, 30, 31, 32]


def test_a_batch_gathers_the_rows_of_its_images_in_its_own_order():
    positions = np.array([3, 1, 0, 3])
    batch = table().gather(positions, np.ones(4, dtype=bool))
    expected = [(row, v) for row, p in enumerate(positions) for v in ROWS_OF_IMAGE[p]]
    assert list(zip(batch["row"].tolist(), batch["value"].tolist(), strict=True)) == expected


def test_padding_has_no_rows():
    batch = table().gather(np.array([0, 2]), np.array([True, False]))
    assert batch["value"].tolist() == [10, 11] and batch["row"].tolist() == [0, 0]


def test_a_batch_of_images_without_rows_is_empty():
    batch = table().gather(np.array([1]), np.array([True]))
    assert len(batch["value"]) == 0 and len(batch["row"]) == 0
