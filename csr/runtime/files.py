"""Files written atomically: beside their place, flushed, renamed; readers see the old file or the new one."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO


@contextmanager
def replaced_path(path: Path, *, hidden: bool = True, suffix: str = ".tmp") -> Iterator[Path]:
    """Yield the path of a private file that takes the name `path` when the block ends well, else vanishes.

    Args:
        path: in a folder that is there.
        hidden: whether the private name begins with a dot.
        suffix: of the private name.

    Raises:
        OSError: the disk is full or the folder cannot be written; an older file is as it was.
    """
    dot = "." if hidden else ""
    private = path.with_name(f"{dot}{path.name}.{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        yield private
        os.replace(private, path)
    finally:
        private.unlink(missing_ok=True)  # a rename onto a link to the same file does nothing
    sync_folder(path.parent)


@contextmanager
def replaced_file(path: Path, *, hidden: bool = False) -> Iterator[BinaryIO]:
    """Yield a private binary file that takes the name `path`, flushed to the disk, if the block ends well."""
    with replaced_path(path, hidden=hidden) as private, open(private, "xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` on a private file beside `path`, then rename it.

    Raises:
        OSError: the disk is full or the folder cannot be written; the private file is removed.
    """
    with replaced_file(path, hidden=True) as file:
        write(file)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename outlasts a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as indented JSON, atomically; NaN is an error."""
    text = json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))
