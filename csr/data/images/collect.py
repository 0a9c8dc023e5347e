"""The list of image files that a user means by naming files and folders, in a stable order, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from csr.data.images.dicom_file import is_dicom
from csr.data.labels.names import IMAGE_SUFFIXES, show, show_some
from csr.runtime.errors import InputError

_INDEX_OF_A_DISC = "DICOMDIR"  # begins as a DICOM file, and holds no picture


def gather_images(
    named: Sequence[Path], *, report: Callable[[str], object] = lambda line: None
) -> list[Path]:
    """Return the named files and all images below the named folders, without hidden ones and linked folders.

    Args:
        named: files of any suffix, also missing ones, which are reported when they are read. Folders are
            searched for files with one of `IMAGE_SUFFIXES` and DICOM files of any name, sorted by path.
        report: called with a line on the number of other files in a folder.

    Raises:
        InputError: a folder without any image, or that cannot be listed; or nothing that is named exists.
    """
    if not any(os.path.exists(path) for path in named):
        shown = show_some([show(str(path), limit=400) for path in named], limit=4)
        raise InputError(f"{shown}: no such file or folder")
    images: dict[Path, None] = {}  # a set with an order
    for path in named:
        if not path.is_dir():
            images.setdefault(path)
            continue
        files = sorted(_below(path))
        inside = [file for file in files if _is_image(file)]
        if not inside:
            raise InputError(f"{path}: no image in it ({' '.join(IMAGE_SUFFIXES)}, or DICOM of any name)")
        if others := len(files) - len(inside):
            report(f"{others} other file{'s' if others > 1 else ''} in {path} omitted")
        for file in inside:
            images.setdefault(file)
    return list(images)


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror})")

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield Path(root, name)


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:  # opening a pipe would wait for a writer
        return path.name != _INDEX_OF_A_DISC and path.is_file() and is_dicom(path)
    except OSError:
        return False
