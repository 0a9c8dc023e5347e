"""Checks of paths that a command is to write."""

from __future__ import annotations

from pathlib import Path

from csr.runtime.errors import InputError


def check_out(folder: Path, *, overwrite: bool) -> None:
    """Raise InputError if there is something that nobody asked to replace."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file: give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"{folder}: not empty: give another folder, or --overwrite to replace its files")
