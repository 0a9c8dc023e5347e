"""The lookup of image files by id: inside the image folder, one file for one id.

A folder is listed once instead of being probed for every suffix of every id: fast on network disks, and no id
is ever given to the file system as a path.
"""

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path

from csr.data.images.near_names import NearNames
from csr.data.labels.names import IMAGE_SUFFIXES, id_problem, show, show_some
from csr.data.labels.table import LabelTable
from csr.runtime.errors import InputError

_Listing = dict[str, list[str]]


class UnusableImage(InputError):
    """An id without a file to read: missing, a link that leads nowhere, or no regular file."""


class MissingImage(UnusableImage):
    """An id without any file."""


def find_image(folder: str | os.PathLike[str], image_id: str) -> Path:
    """Return the file of an image id: the id itself, or with one of `IMAGE_SUFFIXES` in any case.

    Args:
        folder: the image folder; ids may name files in folders below it (`batch1/a`).
        image_id: relative, `/` between folders.

    Raises:
        InputError: no such file, several, no regular file, or an id or link that leaves the folder.
    """
    return _Finder(folder).find(image_id)


def find_images(
    folder: str | os.PathLike[str],
    table: LabelTable,
    *,
    check: Callable[[list[Path]], list[str]] | None = None,
) -> list[Path]:
    """Return the file of each row of a table.

    Args:
        folder: the image folder.
        table: its `image_ids` are looked up.
        check: called with the files that exist if some are missing, so that one message can name both missing
            and unreadable ones; returns problems.

    Raises:
        InputError: one for all rows without a file, up to 20 named with their lines; if no row has one, it
            asks whether the folder is the right one.
    """
    finder = _Finder(folder)
    paths: list[Path] = []
    problems: list[str] = []
    missing = 0
    for index, image_id in enumerate(table.image_ids):
        try:
            paths.append(finder.find(image_id))
        except InputError as error:
            missing += isinstance(error, MissingImage)
            problems.append(f"line {table.row_numbers[index]}: {error}")
    _check_some(folder, table, missing, finder.near)
    if problems:
        problems += check(paths) if check else []
        raise InputError(
            f"{table.path}: {len(problems)} image(s) cannot be used: {show_some(problems)}; "
            "correct the ids or the image folder"
        )
    return paths


def find_present(folder: str | os.PathLike[str], table: LabelTable) -> tuple[dict[int, Path], dict[int, str]]:
    """Return the files of the rows that have one, and why the other rows have none, both by row.

    Args:
        folder: the image folder.
        table: its `image_ids` are looked up.

    Raises:
        InputError: one for all ids that are wrong in themselves (several files, a link that leaves the
            folder), or no row has a file.
    """
    finder = _Finder(folder)
    paths: dict[int, Path] = {}
    unusable: dict[int, str] = {}
    problems: list[str] = []
    missing = 0
    for index, image_id in enumerate(table.image_ids):
        try:
            paths[index] = finder.find(image_id)
        except UnusableImage as error:
            missing += isinstance(error, MissingImage)
            unusable[index] = str(error)
        except InputError as error:
            problems.append(f"line {table.row_numbers[index]}: {error}")
    _check_some(folder, table, missing, finder.near)
    if problems:
        raise InputError(
            f"{table.path}: {len(problems)} image id(s) cannot be used: {show_some(problems)}; correct them"
        )
    return paths, unusable


def _check_some(folder: str | os.PathLike[str], table: LabelTable, missing: int, near: NearNames) -> None:
    if missing == len(table) > 1:
        raise InputError(
            f"{table.path}: none of the {missing} images is in {os.fspath(folder)} "
            f"(the first: {show(table.image_ids[0])}){near.hint(table.image_ids[0]) or ': wrong folder?'}"
        )


class _Finder:
    """The image folder and the folders below it that ids name, each listed once."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such folder; give the folder that holds the images")
        self.root = self.folder.resolve()
        self.near = NearNames(self.folder)
        self._listings: dict[str, _Listing] = {}

    def find(self, image_id: str) -> Path:
        """Return the file of an id, see `find_image`."""
        problem = id_problem(image_id)
        if problem:
            raise InputError(f"image_id {show(image_id)} {problem}")
        below, name = posixpath.split(posixpath.normpath(unicodedata.normalize("NFC", image_id)))
        listing = self._listing(below)
        names = listing.get(name, [])
        # An id that is a file's whole name, suffix included, cannot be meant otherwise.
        if not (names and posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES):
            names = names + [n for end in IMAGE_SUFFIXES for n in listing.get(f"{name}\n{end}", [])]
        stem, suffix = posixpath.splitext(name)
        if not names and suffix.lower() in IMAGE_SUFFIXES:
            names = listing.get(f"{stem}\n{suffix.lower()}", [])
        if not names:
            raise MissingImage(
                f"no file for image_id {show(image_id)} in {self.folder} "
                f"(tried {' '.join(IMAGE_SUFFIXES)} and none){self.near.hint(image_id)}"
            )
        if len(names) > 1:
            raise InputError(
                f"image_id {show(image_id)} is {len(names)} files in {self.folder}: "
                f"{show_some([show(n) for n in sorted(names)], limit=4)}; keep one, or write the suffix"
            )
        return self._checked(Path(below, names[0]), image_id)

    def _listing(self, below: str) -> _Listing:
        """Return the entries of a folder by name, and by `stem newline suffix` if the suffix is known."""
        if below in self._listings:
            return self._listings[below]
        listing: _Listing = {}
        folder = self.folder / below
        # A link to a folder elsewhere must not even be listed; realpath survives a loop of links.
        real = Path(os.path.realpath(folder))
        entries: list[str] = []
        if self.root in (real, *real.parents) and real.is_dir():
            try:
                with os.scandir(real) as listed:
                    entries = [e.name for e in listed if not e.is_dir(follow_symlinks=False)]
            except OSError as error:
                raise InputError(f"{folder}: cannot be listed ({error.strerror})") from None
        for entry in entries:
            name = unicodedata.normalize("NFC", entry)
            listing.setdefault(name, []).append(entry)
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES:
                listing.setdefault(f"{stem}\n{suffix.lower()}", []).append(entry)
        self._listings[below] = listing
        return listing

    def _checked(self, name: Path, image_id: str) -> Path:
        path = self.folder / name
        try:
            real = path.resolve(strict=True)
            mode = real.stat().st_mode
        except (OSError, RuntimeError):
            raise UnusableImage(f"{path}: a link that leads nowhere; copy the file there") from None
        if self.root not in real.parents:
            raise InputError(
                f"image_id {show(image_id)} leaves the image folder: {path} is a link to a file "
                "outside of it; copy the file there"
            )
        if not stat.S_ISREG(mode):
            raise UnusableImage(f"{path}: is not a regular file; image_id {show(image_id)} needs one")
        return path
