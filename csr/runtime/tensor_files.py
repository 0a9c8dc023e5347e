"""State dicts and checkpoints on disk: written atomically with size and hash, read as untrusted files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch

from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic
from csr.runtime.torch_file import DAMAGED, read_torch_file


class Written(NamedTuple):
    """Size and hash of a file when it was written."""

    size: int
    sha256: str


class _Hashing:
    """A file that hashes what goes through it and keeps the error that stopped it.

    `torch.save` turns a full disk into an internal error of its own.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def written(self) -> Written:
        return Written(self.size, self._hash.hexdigest())


def save_tensors(path: Path, value: Any) -> Written:
    """Write tensors, numbers, strings, lists and dicts in the form that `load_tensors` reads.

    Raises:
        OSError: the disk is full or the folder cannot be written; an older file of the name is as it was.
    """
    done: list[Written] = []

    def write(file: IO[bytes]) -> None:
        hashing = _Hashing(file)
        try:
            torch.save(value, cast(Any, hashing))
        except (RuntimeError, OSError):
            raise hashing.error or OSError("torch cannot write it") from None
        done.append(hashing.written())

    write_atomic(path, write)
    return done[0]


def hash_file(path: Path) -> Written:
    """Return size and hash of a file as it is now."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            size += len(block)
    return Written(size, digest.hexdigest())


def load_tensors(path: Path) -> Any:
    """Read what `save_tensors` wrote, on the CPU; never unpickles code.

    Raises:
        InputError: missing, truncated, or holding anything but plain data.
    """
    try:
        return read_torch_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except DAMAGED as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint ({reason[:120]})") from None
