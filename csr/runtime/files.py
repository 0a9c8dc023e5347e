"""What is written, atomically (beside, flush, fsync, rename), and read back without running any of it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` on a file beside `path`, then rename: readers see the old file or the new one.

    Raises:
        OSError: the disk is full or the folder cannot be written; the file beside is removed.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


@contextmanager
def replaced_file(file: Path) -> Iterator[BinaryIO]:
    """Opens a private file that takes the name `file` when the block ends well, else vanishes."""
    private = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(private, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(private, file)
    finally:
        private.unlink(missing_ok=True)
