"""The table of cached rows against a plain list of lists."""

from __future__ import annotations

import numpy as np
import torch

from csr.training.features import table as table_module
from csr.training.features.table import FeatureTable, build_feature_table

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


def test_one_index_is_sent_to_the_device_for_all_tensors(monkeypatch):
    """Each send of its own would wait for the device: stage 2 has two tensors."""
    sends: list[torch.Tensor] = []

    def sent(index: torch.Tensor, device: torch.device) -> torch.Tensor:
        sends.append(index)
        return index.to(device)

    monkeypatch.setattr(table_module, "sent", sent)
    rows = {"local": torch.arange(6.0), "concept_row": torch.arange(6)}
    found = FeatureTable(rows, np.array([1, 2, 3])).gather(np.array([2, 0]), np.array([True, True]))
    assert len(sends) == 1 and found["local"].tolist() == [3, 4, 5, 0]
    assert found["concept_row"].tolist() == [3, 4, 5, 0] and found["row"].tolist() == [0, 0, 0, 1]
