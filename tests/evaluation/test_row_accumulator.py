"""Rows of predictions in data set order; several ranks are in tests/runtime/test_distributed.py."""

from __future__ import annotations

import torch

from csr.evaluation.row_accumulator import RowAccumulator


def test_rows_come_back_in_data_set_order():
    rows = RowAccumulator()
    rows.add({"logit": torch.tensor([[2.0], [0.0]]), "position": torch.tensor([2, 0])})
    rows.add({"logit": torch.tensor([[1.0]]), "position": torch.tensor([1])})
    assert rows.gather()["logit"].flatten().tolist() == [0.0, 1.0, 2.0]
