"""Tables of what frozen layers compute on each image, once: rows per image, gathered over ranks.

Stage 2 reads local vectors of present concepts (several rows per image), stage 3 similarity scores (one row).
Where the rows lie (memory, a mapped file, the GPU) is decided in `csr.training.features.cache`.

Letters: N images, B batch, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from csr.data.batch import Batch, Rows
from csr.data.prefetch import sent
from csr.runtime import distributed


class FeatureTable:
    """Rows of every image of a data set, in image order.

    Args:
        rows: named tensors (R, ...), sorted by image; fp16 ones are returned as fp32 in batches.
        num_rows_N: (N,) how many rows each image has.
    """

    def __init__(self, rows: dict[str, torch.Tensor], num_rows_N: np.ndarray) -> None:
        self._rows = rows
        self._count_N = num_rows_N.astype(np.int64)
        self._start_N = np.concatenate([[0], np.cumsum(self._count_N)])[:-1]

    def __len__(self) -> int:
        return len(self._count_N)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(value.numel() * value.element_size() for value in self._rows.values())

    @property
    def num_rows_N(self) -> np.ndarray:
        """How many rows each image has, int64 (N,)."""
        return self._count_N

    def all(self, name: str) -> torch.Tensor:
        """Return the rows of all images, (R, ...), in the type that they are kept in."""
        return self._rows[name]

    def names(self) -> tuple[str, ...]:
        """Return the names of the tensors."""
        return tuple(self._rows)

    def to(self, device: torch.device) -> FeatureTable:
        """Return a table of the same rows on a device."""
        return FeatureTable({name: value.to(device) for name, value in self._rows.items()}, self._count_N)

    def gather(self, positions_B: np.ndarray, valid_B: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the rows of a batch of images, and `row`: each one's place in the batch.

        Args:
            positions_B: (B,) places in the data set.
            valid_B: (B,) bool; False: padding, which has no rows.

        Returns:
            Named tensors (R, ...) where the table lies, and `row` (R,) int64 on the CPU.
        """
        count_B = np.where(valid_B, self._count_N[positions_B], 0)
        row_R = np.repeat(np.arange(len(positions_B)), count_B)
        within_R = np.arange(len(row_R)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        at_R = torch.from_numpy(self._start_N[positions_B][row_R] + within_R)
        # one index for all tensors: each copy of it would wait for what the device has been given so far
        at = {device: sent(at_R, device) for device in {v.device for v in self._rows.values()}}
        batch = {name: _single(value[at[value.device]]) for name, value in self._rows.items()}
        batch["row"] = torch.from_numpy(row_R)
        return batch


class FeatureViews:
    """One table of a data set for each augmented view of its images, or a single one without augmentation.

    Args:
        tables: at least one.
        source: where they come from, to be printed.
    """

    def __init__(self, tables: Sequence[FeatureTable], *, source: str = "memory") -> None:
        assert tables, "a data set has at least one view"
        self.tables, self.source = tuple(tables), source

    def at_epoch(self, epoch: int) -> FeatureTable:
        """Return the view that an epoch (from 1) trains on: epochs take turns."""
        return self.tables[(epoch - 1) % len(self.tables)]

    def all(self, name: str) -> torch.Tensor:
        """Return rows (R, ...) of all images in the first view, for starting values and coverage."""
        return self.tables[0].all(name)

    @property
    def nbytes(self) -> int:
        """Bytes of all views."""
        return sum(table.nbytes for table in self.tables)


def build_feature_table(parts: Sequence[dict[str, np.ndarray]], num_images: int) -> FeatureTable:
    """Join what the ranks computed into one table.

    Args:
        parts: per rank, or several of one, named arrays (R, ...) with `image` (R,), each row's image. They
            are taken out: tables may be as large as memory allows.
        num_images: N.

    Returns:
        The table of all N images, on the CPU.
    """
    filled = [p for p in parts if p]
    assert filled, "at least one rank computed rows"
    image_R = np.concatenate([p["image"] for p in filled])
    place_R = np.empty(len(image_R), dtype=np.int64)  # of each row in the table
    place_R[np.argsort(image_R, kind="stable")] = np.arange(len(image_R))
    ends = np.cumsum([len(p["image"]) for p in filled])[:-1]
    rows = {}
    for name in [name for name in filled[0] if name != "image"]:
        first = filled[0][name]
        value = np.empty((len(image_R), *first.shape[1:]), dtype=first.dtype)
        for part, places in zip(filled, np.split(place_R, ends), strict=True):
            value[places] = part.pop(name)  # freed as soon as it is in the table
        rows[name] = torch.from_numpy(value)
    return FeatureTable(rows, np.bincount(image_R, minlength=num_images))


def _single(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.dtype == torch.float16 else value


def compute_features(
    inputs: Callable[[Batch], Rows], batches: Iterable[Batch], *, num_images: int
) -> FeatureTable:
    """Run a stage's frozen layers over all images; every rank gets all rows. Collective.

    Args:
        inputs: `Stage.inputs`: a batch to named rows (R, ...) and `row` (R,), each row's image in the batch.
        batches: this rank's, each with `position` (B,), places in the data set.
        num_images: N of the data set.

    Returns:
        The table of all N images, on the CPU.
    """
    own: list[dict[str, np.ndarray]] = []
    with distributed.errors_agreed():
        for batch in batches:
            rows = {name: value.cpu() for name, value in inputs(batch).items()}
            rows["image"] = batch["position"].cpu()[rows.pop("row")]
            own.append({name: value.numpy() for name, value in rows.items()})
    if distributed.world_size() == 1:
        return build_feature_table(own, num_images)
    ranks = distributed.all_gather_object(own)
    return build_feature_table([part for parts in ranks for part in parts], num_images)
