"""What is written, atomically (beside, flush, fsync, rename), and read back without running any of it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from csr.errors import InputError


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
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def save_tensors(path: Path, value: Any) -> None:
    """Write tensors, numbers, strings, lists and dicts in the form that `load_tensors` reads."""
    write_atomic(path, lambda file: torch.save(value, file))


def load_tensors(path: Path) -> Any:
    """Read what `save_tensors` wrote, on the CPU; never unpickles code.

    Raises:
        InputError: missing, truncated, or holding anything but plain data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint ({reason[:120]})") from None
