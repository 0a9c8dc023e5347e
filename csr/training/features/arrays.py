"""A folder of named arrays: one `.npy` file each, and a JSON header that names the key and the arrays.

The folder appears under its name only when it is whole and on disk. Reading maps the arrays; a folder that
lacks one, or holds a shorter one, is not read.

Letters: R rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from csr.runtime.files import sync_folder, write_json

Arrays = dict[str, np.ndarray]
HEADER = "header.json"


class Column(NamedTuple):
    """An array to be written: its type, its shape (R, ...) and its pieces along the first axis."""

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]


def write_arrays(folder: Path, key: str, columns: Mapping[str, Column]) -> None:
    """Write a folder of named arrays; one piece is in memory at a time.

    A whole folder of this key that is already there stays: other processes may have mapped it.

    Args:
        folder: the name it takes; the folder around it exists.
        key: what the arrays depend on.
        columns: by name.

    Raises:
        OSError: the disk is full or the folder around it cannot be written.
    """
    with _private_folder(folder) as private:
        for name, column in columns.items():
            _write_array(private / f"{name}.npy", column)
        write_json(private / HEADER, {"key": key, "arrays": list(columns)})
        _take_name(private, folder, key)
    sync_folder(folder.parent)


def read_arrays(folder: Path, key: str) -> Arrays | None:
    """Map a folder of `write_arrays`; return None if it is missing, of another key, or not whole.

    Pages are copied on write: torch asks for memory that can be written, and nothing writes it.
    """
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        if header["key"] != key:
            return None
        return {name: npy.open_memmap(folder / f"{name}.npy", mode="c") for name in header["arrays"]}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def discard(path: Path) -> None:
    """Remove a file, or a folder of arrays, if it is there.

    Raises:
        OSError: it cannot be removed, or the folder holds other files as well.
    """
    with contextlib.suppress(FileNotFoundError):  # another process removes it too
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        for file in (*path.glob(f"*{HEADER}*"), *path.glob("*.npy")):
            file.unlink(missing_ok=True)
        path.rmdir()


@contextlib.contextmanager
def _private_folder(folder: Path) -> Iterator[Path]:
    private = folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    private.mkdir()
    try:
        yield private
    finally:
        discard(private)


def _take_name(private: Path, folder: Path, key: str) -> None:
    try:
        os.rename(private, folder)
    except OSError:
        if read_arrays(folder, key) is not None:  # another process was faster, with the same arrays
            return
        discard(folder)  # a damaged one was in the way
        os.rename(private, folder)


def _write_array(file: Path, column: Column) -> None:
    header = {"descr": npy.dtype_to_descr(column.dtype), "fortran_order": False, "shape": column.shape}
    rows = 0
    with open(file, "xb") as stream:
        # not through a map: a full disk would end the process by SIGBUS instead of raising OSError
        npy.write_array_header_1_0(stream, header)
        for piece in column.pieces:
            assert piece.dtype == column.dtype, (file.name, piece.dtype, column.dtype)
            stream.write(np.ascontiguousarray(piece).tobytes())
            rows += len(piece)
        assert rows == column.shape[0], "pieces fill their array"
        stream.flush()
        os.fsync(stream.fileno())
