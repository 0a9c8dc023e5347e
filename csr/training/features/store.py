"""Feature folders: whole ones, and the parts that they are joined from; mapped, atomic, never half served.

Each is a folder of named arrays (R, ...), with `count` (N,), how many rows each image has. A part holds the
images of one segment.

Letters: N images, S images of a segment, R rows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from csr.runtime.errors import InputError
from csr.training.features.arrays import Arrays, Column, discard, read_arrays, write_arrays
from csr.training.features.table import FeatureTable

DTYPES: dict[str, np.dtype] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}
UNFINISHED_S = 24 * 3600.0  # parts and private folders of killed runs are removed when they are older
UNUSED_S = 30 * 24 * 3600.0  # whole folders that no run has opened for so long are removed
LIMITS_S = {
    "features-*.part": UNFINISHED_S,
    "features-*.tmp": UNFINISHED_S,
    "features-*.rows": UNUSED_S,
    "features-*.bin": UNUSED_S,  # an earlier version wrote files of its own format
}


class FeatureStore:
    """The rows of one key in a folder: the whole, and its parts.

    Args:
        folder: of the cache; made if missing.
        key: of `feature_key`.
        num_images: N.
        dtype: fp32 or fp16, of floating-point rows.
    """

    def __init__(self, folder: Path, key: str, *, num_images: int, dtype: str = "fp32") -> None:
        self.folder, self.key, self.num_images, self.dtype = folder, key, num_images, dtype
        self.whole = folder / f"features-{key[:32]}.rows"

    def load(self) -> FeatureTable | None:
        """Return the table of all N images, mapped (ranks of a node share its pages), or None without one."""
        arrays = read_arrays(self.whole, self.key)
        if arrays is None or len(arrays["count"]) != self.num_images:
            return None
        with contextlib.suppress(OSError):
            os.utime(self.whole)  # used now: not to be removed; another user's folder may refuse
        count_N = np.array(arrays.pop("count"))
        return FeatureTable({name: torch.from_numpy(value) for name, value in arrays.items()}, count_N)

    def part(self, segment: range) -> Path:
        """Return the folder of a segment's rows."""
        return self.whole.with_name(f"{self.whole.stem}.{segment.start}-{segment.stop}.part")

    def has(self, segment: range) -> bool:
        """Return whether the rows of a segment can be read."""
        return read_arrays(self.part(segment), self.key) is not None or self.load() is not None

    def write_part(self, segment: range, rows: Arrays) -> None:
        """Write the rows of a segment's images.

        Args:
            segment: S places in the data set.
            rows: named arrays (R, ...), sorted by image, and `count` (S,).

        Raises:
            OSError: the folder cannot be written.
            InputError: fp16 cannot hold a value.
        """
        assert len(rows["count"]) == len(segment)
        self.folder.mkdir(parents=True, exist_ok=True)
        encoded = {name: encode(value, self.dtype) for name, value in rows.items()}
        columns = {name: Column(value.dtype, value.shape, [value]) for name, value in encoded.items()}
        write_arrays(self.part(segment), self.key, columns)

    def read(self, segment: range) -> Arrays:
        """Read the rows of a segment from its part or from the whole.

        Returns:
            Named arrays (R, ...) in memory, in the type of the cache, sorted by image, and `count` (S,).

        Raises:
            FileNotFoundError: neither is there.
        """
        arrays = read_arrays(self.part(segment), self.key)
        if arrays is not None:
            return {name: np.array(value) for name, value in arrays.items()}
        table = self.load()
        if table is None:
            raise FileNotFoundError(self.part(segment))
        count_N = table.num_rows_N
        first, last = (int(count_N[:stop].sum()) for stop in (segment.start, segment.stop))
        rows = {name: table.all(name)[first:last].numpy().copy() for name in table.names()}
        return {**rows, "count": count_N[segment.start : segment.stop].copy()}

    def join(self, segments: Sequence[range]) -> None:
        """Make the whole of all parts; holds one part in memory at a time.

        Raises:
            OSError: a part is gone (and the whole is not there), or the folder cannot be written.
        """
        if self.load() is not None:
            return
        try:
            self._join(segments)
        except FileNotFoundError:
            # another run that made the same rows has removed the parts
            if self.load() is None:
                raise

    def _join(self, segments: Sequence[range]) -> None:
        parts = [self._arrays_of(segment) for segment in segments]
        columns = {}
        for name, first in parts[0].items():
            shape = (sum(len(part[name]) for part in parts), *first.shape[1:])
            columns[name] = Column(first.dtype, shape, [part[name] for part in parts])
        write_arrays(self.whole, self.key, columns)

    def _arrays_of(self, segment: range) -> Arrays:
        arrays = read_arrays(self.part(segment), self.key)
        if arrays is None:
            raise FileNotFoundError(self.part(segment))
        return arrays

    def clean_up(self) -> None:
        """Remove this key's parts, leftovers of killed runs, and rows long unused."""
        for old in self.folder.glob(f"{self.whole.stem}.*.part"):
            try:
                discard(old)
            except OSError as error:
                # another run has put a part there and removes it, or it is another user's
                if error.errno not in (errno.ENOTEMPTY, errno.EACCES, errno.EPERM):
                    raise
        for pattern, limit_s in LIMITS_S.items():
            for old in self.folder.glob(pattern):
                with contextlib.suppress(OSError):  # another run removes it too
                    if time.time() - old.stat().st_mtime > limit_s:
                        discard(old)


def encode(value: np.ndarray, dtype: str) -> np.ndarray:
    """Return floating-point numbers in the type that they are kept in, others as they are.

    Args:
        value: any shape; the result has the same.
        dtype: fp32 or fp16.

    Raises:
        InputError: fp16 cannot hold a value.
    """
    if value.dtype.kind != "f":
        return value
    with np.errstate(over="ignore"):
        encoded = value.astype(DTYPES[dtype])
    if dtype == "fp16" and np.isinf(encoded).any() and np.isfinite(value).all():
        raise InputError("--cache_dtype fp16: a feature is larger than 65504: use --cache_dtype fp32")
    return encoded
