"""What frozen layers compute on each image, computed once: rows per image, gathered over ranks.

Stage 2 reads local vectors of present concepts (several rows per image), stage 3 similarity scores (one row).

Letters: N images, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class FeatureTable:
    """Rows of every image of a data set, in image order.

    Args:
        rows: named tensors (R, ...), sorted by image.
        num_rows_N: how many rows each image has.
    """

    def __init__(self, rows: dict[str, torch.Tensor], num_rows_N: np.ndarray) -> None:
        self._rows = rows
        self._count_N = num_rows_N.astype(np.int64)
        self._start_N = np.concatenate([[0], np.cumsum(self._count_N)])[:-1]

    def __len__(self) -> int:
        return len(self._count_N)

    @property
    def nbytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in self._rows.values())

    def all(self, name: str) -> torch.Tensor:
        """Rows of all images, (R, ...)."""
        return self._rows[name]

    def gather(self, positions_B: np.ndarray, valid_B: np.ndarray) -> dict[str, torch.Tensor]:
        """Rows of a batch of images, and `row`: each one's place in the batch. Padding has no rows.

        Returns:
            Named tensors (R, ...) and `row` (R,) int64.
        """
        count_B = np.where(valid_B, self._count_N[positions_B], 0)
        row_R = np.repeat(np.arange(len(positions_B)), count_B)
        within_R = np.arange(len(row_R)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        at_R = torch.from_numpy(self._start_N[positions_B][row_R] + within_R)
        batch = {name: value[at_R] for name, value in self._rows.items()}
        batch["row"] = torch.from_numpy(row_R)
        return batch


def build_feature_table(parts: Sequence[dict[str, np.ndarray]], num_images: int) -> FeatureTable:
    """Join what the ranks computed into one table.

    Args:
        parts: per rank, named arrays (R, ...) with `image` (R,), each row's image.
        num_images: N.
    """
    filled = [p for p in parts if p]
    assert filled, "at least one rank computed rows"
    joined = {name: np.concatenate([p[name] for p in filled]) for name in filled[0]}
    image_R = joined.pop("image")
    order = np.argsort(image_R, kind="stable")
    rows = {name: torch.from_numpy(value[order]) for name, value in joined.items()}
    return FeatureTable(rows, np.bincount(image_R, minlength=num_images))
