"""Labelled images in whole batches, taken from the store at once and not image by image.

Letters: B batch, C channels of the store (1 or 3), S side of the stored images, K concepts, T targets,
R boxes of the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from csr.data.batch import Batch
from csr.data.image_cache.store import ImageStore
from csr.data.labels.boxes import BoxTable
from csr.data.labels.table import LabelTable
from csr.data.sampler import EvalSampler, Positions, WindowSampler

__all__ = ["EvalSampler", "LabelledImages", "Positions", "WindowSampler", "keep_batch"]


def keep_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the batch itself: `collate_fn` of a DataLoader, as `LabelledImages` makes whole batches."""
    return batch


class LabelledImages(Dataset[Batch]):
    """Images with their labels (and boxes) as ready batches.

    They work without a loader (`load`) and as the data set of `DataLoader(images,
    batch_sampler=WindowSampler(...), collate_fn=keep_batch)`.

    Args:
        store: decoded images, one for each row of `table`.
        table: the whole label table.
        boxes: boxes of the same table with known image sizes, or None.
        indices: the rows that belong to this data set (default: all); positions count in these.
    """

    def __init__(
        self,
        store: ImageStore,
        table: LabelTable,
        *,
        boxes: BoxTable | None = None,
        indices: np.ndarray | None = None,
    ) -> None:
        assert len(store) == len(table), "one stored image for each row of the table"
        self.store, self.table, self.boxes = store, table, boxes
        self.indices = np.arange(len(table)) if indices is None else np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        return self.load(np.asarray([position]))

    def __getitems__(self, positions: Positions) -> Batch:
        return self.load(*positions)

    def load(self, positions_B: np.ndarray, valid_B: np.ndarray | None = None) -> Batch:
        """Return one batch.

        Args:
            positions_B: integers, places in this data set.
            valid_B: bool, False marks padding: its labels are NaN and it has no boxes; None: all valid.

        Returns:
            `image` uint8 (B,C,S,S); `concept` (B,K) and `target` (B,T) float32, NaN = masked; `index` int64
            (B,), the row in the whole table; `valid` bool (B,). With boxes also `box` float32 (R,4) x_min,
            y_min, x_max, y_max as fractions of the stored square, `box_class` int64 (R,) and `box_row` int64
            (R,), its place in the batch.
        """
        index_B = self.indices[np.asarray(positions_B, dtype=np.int64)]
        valid = np.ones(len(index_B), dtype=bool) if valid_B is None else np.asarray(valid_B, bool)
        batch: Batch = {"image": self.store.batch(index_B), **self._labels(index_B, valid)}
        if self.boxes is not None:
            row_R, class_R, box_R4 = self.boxes.for_batch(index_B)
            keep_R = valid[row_R]
            batch["box"] = torch.from_numpy(box_R4[keep_R])
            batch["box_class"] = torch.from_numpy(class_R[keep_R])
            batch["box_row"] = torch.from_numpy(row_R[keep_R])
        return batch

    def load_labels(self, positions_B: np.ndarray) -> Batch:
        """Return `concept`, `target`, `index` and `valid` of a batch of `load`, without its images."""
        index_B = self.indices[np.asarray(positions_B, dtype=np.int64)]
        return self._labels(index_B, np.ones(len(index_B), dtype=bool))

    def _labels(self, index_B: np.ndarray, valid_B: np.ndarray) -> Batch:
        return {
            "concept": _masked(self.table.concept_NK, index_B, valid_B),
            "target": _masked(self.table.target_NT, index_B, valid_B),
            "index": torch.from_numpy(index_B),
            "valid": torch.from_numpy(valid_B.copy()),
        }


def _masked(label_NL: np.ndarray, index_B: np.ndarray, valid_B: np.ndarray) -> torch.Tensor:
    chosen_BL = np.where(valid_B[:, None], label_NL[index_B], np.float32(np.nan))
    return torch.from_numpy(chosen_BL.astype(np.float32, copy=False))
