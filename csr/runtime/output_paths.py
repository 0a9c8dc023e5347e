"""Checks of places that a command is to write: before any work, and nothing is overwritten unasked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from csr.runtime.errors import InputError


def check_output_folder(
    folder: Path, *, overwrite: bool, content: str, flag: str = "--out", marks: Sequence[str] = ()
) -> None:
    """Check a folder that a command is to make, or to fill.

    Args:
        folder: new, empty, or with something to replace.
        overwrite: whether the user asked to replace what is there.
        content: what would be replaced, for the message.
        flag: that named the folder; empty for a positional argument.
        marks: names of files; without any of them a filled folder holds something else, and is refused.

    Raises:
        InputError: it is a file, cannot be made or written, or holds something that was not asked to be
            replaced.
    """
    name = f"{flag} {folder}".strip()
    try:
        nearest = next((f for f in (folder, *folder.parents) if f.exists()), folder)
        filled = folder.is_dir() and any(folder.iterdir())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a folder's name"
        raise InputError(f"{name}: {reason}: give another folder") from None
    if nearest == folder and not folder.is_dir() and folder.exists():
        raise InputError(f"{name}: is a file: give a folder")
    if not nearest.is_dir():
        raise InputError(f"{name}: {nearest} is no folder: give another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{name}: {nearest} cannot be written to: give another folder")
    if filled and not overwrite:
        raise InputError(f"{name}: is not empty: give another folder, or --overwrite to replace {content}")
    if filled and marks and not any((folder / mark).is_file() for mark in marks):
        raise InputError(f"{name}: holds other files than {content}: give another folder")


def check_output_file(
    path: Path, *, overwrite: bool, suffixes: Sequence[str] = (), flag: str = "--out"
) -> None:
    """Check a file that a command is to write.

    Args:
        path: in a folder that is there.
        overwrite: whether the user asked to replace it.
        suffixes: one of which its name must end with; none: any.
        flag: that named it.

    Raises:
        InputError: it cannot become what was asked for.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{flag} {path}: end the name with {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{flag} {path}: is a folder: give a file")
    if not path.parent.is_dir():
        raise InputError(f"{flag} {path}: no folder {path.parent}: make it, or give another file")
    if path.exists() and not overwrite:
        raise InputError(f"{flag} {path}: exists: give another file, or --overwrite to replace it")
