"""Feature files: whole ones, and the parts that they are joined from; mapped, atomic, never half served.

File: magic, length of the header, a JSON header (key; name, type, shape and offset of each array), then the
arrays, each at a multiple of 64 bytes. `count` (N,) says how many rows each image has. A part is such a file
for the images of one segment. Files appear under their names only when they are whole and on disk.

Letters: N images, R rows.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr.runtime.errors import InputError
from csr.runtime.files import replaced_file
from csr.training.features.table import FeatureTable

Rows = dict[str, np.ndarray]
DTYPES: dict[str, np.dtype] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}
UNFINISHED_S = 24 * 3600.0  # parts and private files of killed runs are removed when they are older
UNUSED_S = 30 * 24 * 3600.0  # whole files that no run has opened for so long are removed
_MAGIC = b"csrfeat1"
_HEAD = struct.Struct("<8sq")
_ALIGN = 64


class FeatureStore:
    """The file of one key in a folder, and its parts.

    Args:
        folder: made if missing.
        key: of `feature_key`.
        num_images: N.
        dtype: fp32 or fp16, of floating-point rows.
    """

    def __init__(self, folder: Path, key: str, *, num_images: int, dtype: str = "fp32") -> None:
        self.folder, self.key, self.num_images, self.dtype = folder, key, num_images, dtype
        self.file = folder / f"features-{key[:32]}.bin"

    def load(self) -> FeatureTable | None:
        """The whole table, mapped (pages are shared by the ranks of a node), or None where there is none."""
        arrays = read_arrays(self.file, self.key)
        if arrays is None or len(arrays["count"]) != self.num_images:
            return None
        with contextlib.suppress(OSError):
            os.utime(self.file)  # used now: not to be removed; somebody else's file may refuse
        count_N = np.array(arrays.pop("count"))
        return FeatureTable({name: torch.from_numpy(value) for name, value in arrays.items()}, count_N)

    def part(self, segment: range) -> Path:
        return self.file.with_name(f"{self.file.stem}.{segment.start}-{segment.stop}.part")

    def has(self, segment: range) -> bool:
        """Whether the rows of a segment can be read."""
        return read_arrays(self.part(segment), self.key) is not None or self.load() is not None

    def write_part(self, segment: range, rows: Rows) -> None:
        """Write the rows of a segment's images: named (R, ...) with `count` (N,), sorted by image.

        Raises:
            OSError: the folder cannot be written.
            InputError: fp16 cannot hold a value.
        """
        assert len(rows["count"]) == len(segment)
        self.folder.mkdir(parents=True, exist_ok=True)
        encoded = {name: encode(value, self.dtype) for name, value in rows.items()}
        write_arrays(self.part(segment), self.key, {n: (v.dtype, v.shape, [v]) for n, v in encoded.items()})

    def read(self, segment: range) -> Rows:
        """The rows of a segment out of its part or of the whole file.

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
        """Make the whole file of all parts; holds one part in memory at a time.

        Raises:
            OSError: a part is gone (and the whole file is not there), or the folder cannot be written.
        """
        if self.load() is not None:
            return
        try:
            self._join(segments)
        except FileNotFoundError:
            # another run that made the same file has removed the parts
            if self.load() is None:
                raise

    def _join(self, segments: Sequence[range]) -> None:
        parts = [self._arrays_of(segment) for segment in segments]
        joined: Arrays = {}
        for name, first in parts[0].items():
            shape = (sum(len(p[name]) for p in parts), *first.shape[1:])
            joined[name] = (first.dtype, shape, [p[name] for p in parts])
        write_arrays(self.file, self.key, joined)

    def _arrays_of(self, segment: range) -> Rows:
        arrays = read_arrays(self.part(segment), self.key)
        if arrays is None:
            raise FileNotFoundError(self.part(segment))
        return arrays

    def clean_up(self) -> None:
        """Remove this key's parts, what killed runs left behind, and files long unused."""
        for old in self.folder.glob(f"{self.file.stem}.*.part"):
            old.unlink(missing_ok=True)
        for pattern, limit in (
            ("features-*.part", UNFINISHED_S),
            ("features-*.tmp", UNFINISHED_S),
            ("features-*.bin", UNUSED_S),
        ):
            for old in self.folder.glob(pattern):
                with contextlib.suppress(OSError):  # another run removes it too
                    if time.time() - old.stat().st_mtime > limit:
                        old.unlink()


def encode(value: np.ndarray, dtype: str) -> np.ndarray:
    """Floating-point numbers in the type that they are kept in; others as they are.

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


Arrays = dict[str, tuple[np.dtype, tuple[int, ...], Iterable[np.ndarray]]]


def write_arrays(file: Path, key: str, arrays: Arrays) -> None:
    """Write a file of named arrays, each given as type, shape and pieces along the first axis."""
    entries, offset = {}, 0
    for name, (dtype, shape, _) in arrays.items():
        offset = _aligned(offset)
        entries[name] = {"dtype": dtype.str, "shape": list(shape), "offset": offset}
        offset += dtype.itemsize * math.prod(shape)
    header = json.dumps({"key": key, "length": offset, "arrays": entries}).encode()
    begin = _aligned(_HEAD.size + len(header))
    with replaced_file(file) as stream:
        stream.write((_HEAD.pack(_MAGIC, len(header)) + header).ljust(begin, b"\0"))
        for name, (dtype, _, pieces) in arrays.items():
            stream.write(b"\0" * (begin + entries[name]["offset"] - stream.tell()))
            for piece in pieces:
                assert piece.dtype == dtype, (name, piece.dtype, dtype)
                stream.write(np.ascontiguousarray(piece).tobytes())
        assert stream.tell() == begin + offset, "pieces fill their array"


def read_arrays(file: Path, key: str) -> Rows | None:
    """Map a file of `write_arrays`; None if it is missing, of another key, or not whole."""
    try:
        with open(file, "rb") as stream:
            magic, length = _HEAD.unpack(stream.read(_HEAD.size))
            if magic != _MAGIC or not 0 < length < 2**20:
                return None
            header = json.loads(stream.read(length))
            begin = _aligned(_HEAD.size + length)
            whole = os.fstat(stream.fileno()).st_size == begin + header["length"]
            if header["key"] != key or not whole:
                return None
            return dict(_mapped(stream, begin, header["arrays"]))
    except (OSError, struct.error, ValueError, TypeError, KeyError):
        return None


def _mapped(stream: Any, begin: int, entries: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, entry in entries.items():
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        if not math.prod(shape):
            yield name, np.empty(shape, dtype)  # nothing to map
            continue
        # copy on write: torch wants memory that can be written, nobody writes it
        yield name, np.memmap(stream, dtype, "c", begin + entry["offset"], shape)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN
