"""The list of image files that a user means by naming files and folders, in a stable order, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from csr.data.images.dicom_file import is_dicom
from csr.data.images.links import Roots, linked_folders_line
from csr.data.labels.names import IMAGE_SUFFIXES, show, show_some
from csr.runtime.errors import InputError

_INDEX_OF_A_DISC = "DICOMDIR"  # begins as a DICOM file, and holds no picture


def gather_images(
    named: Sequence[Path],
    *,
    report: Callable[[str], object] = lambda line: None,
    links_into: Sequence[str] = (),
) -> list[Path]:
    """Return the named files and all images below the named folders, without hidden ones.

    Links to files are followed: their names are the user's, and no table's.

    Args:
        named: files of any suffix, also missing ones, which are reported when they are read. Folders are
            searched for files with one of `IMAGE_SUFFIXES` and DICOM files of any name, sorted by path.
        report: called with a line on the number of other files in a folder, and one on its sub-folders that
            are links and lead neither into the folder nor into `links_into`.
        links_into: other folders that linked sub-folders may lead into.

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
        skipped: dict[Path, Path] = {}
        files = sorted(_below(path, Roots(path, links_into), skipped))
        inside = [file for file in files if _is_image(file)]
        links = linked_folders_line(path, skipped) if skipped else ""
        if not inside:
            kinds = f"{' '.join(IMAGE_SUFFIXES)}, or DICOM of any name"
            raise InputError(f"{path}: no image in it ({kinds}){links and f'; {links}'}")
        if links:
            report(links)
        if others := len(files) - len(inside):
            report(f"{others} other file{'s' if others > 1 else ''} in {path} omitted")
        for file in inside:
            images.setdefault(file)
    return list(images)


def _below(folder: Path, roots: Roots, skipped: dict[Path, Path]) -> Iterator[Path]:
    """Yield the files below a folder, each folder once; linked folders outside of `roots` go to `skipped`."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror})")

    seen = set()
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(root))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if os.path.islink(os.path.join(root, name))]:
            link = Path(root, name)
            target = Path(os.path.realpath(link))
            if not roots.hold(target):
                skipped[link] = target
            # what lies in the folder is found there; a link to a folder above it would never end
            if link in skipped or roots.in_folder(target) or str(target) in seen:
                folders.remove(name)
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
