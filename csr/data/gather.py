"""Image files out of what a user names: files and folders, in a stable order, each once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from csr.data.naming import IMAGE_SUFFIXES
from csr.errors import InputError


def gather_images(given: Sequence[Path]) -> list[Path]:
    """The files named, and all images below the folders named (hidden ones and linked folders left out).

    Args:
        given: files of any suffix; a missing one stays, and is told when it is read. Folders are searched
            for files with one of `IMAGE_SUFFIXES`, sorted by path.

    Raises:
        InputError: a folder without any image, or that cannot be listed.
    """
    found: dict[Path, None] = {}
    for path in given:
        if not path.is_dir():
            found.setdefault(path)
            continue
        inside = sorted(_below(path))
        if not inside:
            raise InputError(f"{path}: no image in it ({' '.join(IMAGE_SUFFIXES)})")
        for file in inside:
            found.setdefault(file)
    return list(found)


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror})")

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(root, name)
