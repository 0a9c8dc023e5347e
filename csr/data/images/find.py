"""The lookup of image files by id: inside the image folder, one file for one id.

A folder is listed once instead of being probed for every suffix of every id: fast on network disks, and no id
is ever given to the file system as a path.
"""

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from csr.data.images.links import OutsideLink, Roots, outside_line
from csr.data.images.near_names import NearNames
from csr.data.labels.names import IMAGE_SUFFIXES, id_problem, show, show_some
from csr.data.labels.table import LabelTable
from csr.runtime.errors import InputError

_TRIED = f"(tried {' '.join(IMAGE_SUFFIXES)} and none)"
_Listing = dict[str, list[str]]


class UnusableImage(InputError):
    """An id without a file to read: missing, a link that leads nowhere, or no regular file."""


class MissingImage(UnusableImage):
    """An id without any file.

    Attributes:
        named: the id, and what may have been meant.
    """

    def __init__(self, image_id: str, folder: Path, hint: str) -> None:
        self.named = f"{show(image_id)}{hint}"
        super().__init__(f"no file for image_id {show(image_id)} in {folder} {_TRIED}{hint}")


def find_image(folder: str | os.PathLike[str], image_id: str, *, links_into: Sequence[str] = ()) -> Path:
    """Return the file of an image id: the id itself, or with one of `IMAGE_SUFFIXES` in any case.

    Args:
        folder: the image folder; ids may name files in folders below it (`batch1/a`).
        image_id: relative, `/` between folders.
        links_into: other folders that links to files and sub-folders may lead into.

    Raises:
        InputError: no such file, several, no regular file, or an id or link that leaves the folder.
    """
    return _Finder(folder, links_into).find(image_id)


def find_images(
    folder: str | os.PathLike[str],
    table: LabelTable,
    *,
    check: Callable[[list[Path]], list[str]] | None = None,
    links_into: Sequence[str] = (),
) -> list[Path]:
    """Return the file of each row of a table.

    Args:
        folder: the image folder.
        table: its `image_ids` are looked up.
        check: called with the files that exist if some are missing, so that one message can name both missing
            and unreadable ones; returns problems.
        links_into: see `find_image`.

    Raises:
        InputError: one for all rows without a file, up to 20 named with their lines; if no row has one, it
            asks whether the folder is the right one; links that leave it are one line for all.
    """
    finder = _Finder(folder, links_into)
    paths: list[Path] = []
    problems: list[str] = []
    outside: dict[int, OutsideLink] = {}
    missing: dict[int, MissingImage] = {}
    for index, image_id in enumerate(table.image_ids):
        try:
            paths.append(finder.find(image_id))
        except OutsideLink as error:
            outside[table.row_numbers[index]] = error
        except MissingImage as error:
            missing[table.row_numbers[index]] = error
        except InputError as error:
            problems.append(f"line {table.row_numbers[index]}: {error}")
    _check_some(folder, table, len(missing), finder.near)
    listed = _listed(folder, missing)
    if outside:
        raise _of_links(folder, table, outside, [*listed, *problems])
    if missing or problems:
        problems += check(paths) if check else []
        listed += [show_some(problems)] if problems else []
        raise InputError(
            f"{table.path}: {len(missing) + len(problems)} image(s) cannot be used: {'; '.join(listed)}; "
            "correct the ids or the image folder"
        )
    return paths


def _listed(folder: str | os.PathLike[str], missing: dict[int, MissingImage]) -> list[str]:
    """Return one line for all missing files, with the reason that they share once."""
    if len(missing) < 2:
        return [f"line {row}: {error}" for row, error in missing.items()]
    named = [f"line {row}: {error.named}" for row, error in missing.items()]
    return [f"{len(missing)} without a file in {os.fspath(folder)} {_TRIED}: {show_some(named)}"]


def find_present(
    folder: str | os.PathLike[str], table: LabelTable, *, links_into: Sequence[str] = ()
) -> tuple[dict[int, Path], dict[int, str]]:
    """Return the files of the rows that have one, and why the other rows have none, both by row.

    Args:
        folder: the image folder.
        table: its `image_ids` are looked up.
        links_into: see `find_image`.

    Raises:
        InputError: one for all ids that are wrong in themselves (several files, a link that leaves the
            folder), or no row has a file.
    """
    finder = _Finder(folder, links_into)
    outside: dict[int, OutsideLink] = {}
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
        except OutsideLink as error:
            outside[table.row_numbers[index]] = error
        except InputError as error:
            problems.append(f"line {table.row_numbers[index]}: {error}")
    _check_some(folder, table, missing, finder.near)
    if outside:
        raise _of_links(folder, table, outside, problems)
    if problems:
        raise InputError(
            f"{table.path}: {len(problems)} image id(s) cannot be used: {show_some(problems)}; correct them"
        )
    return paths, unusable


def _of_links(
    folder: str | os.PathLike[str], table: LabelTable, outside: dict[int, OutsideLink], problems: list[str]
) -> InputError:
    line = outside_line(folder, outside, total=len(table))
    others = f"; {len(problems)} more cannot be used: {show_some(problems)}" if problems else ""
    return InputError(f"{table.path}: {line}{others}")


def _check_some(folder: str | os.PathLike[str], table: LabelTable, missing: int, near: NearNames) -> None:
    if missing == len(table) > 1:
        raise InputError(
            f"{table.path}: none of the {missing} images is in {os.fspath(folder)} "
            f"(the first: {show(table.image_ids[0])}){near.hint(table.image_ids[0]) or ': wrong folder?'}"
        )


class _Finder:
    """The image folder and the folders below it that ids name, each listed once."""

    def __init__(self, folder: str | os.PathLike[str], links_into: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.roots = Roots(self.folder, links_into)
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
            raise MissingImage(image_id, self.folder, self.near.hint(image_id))
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
        real = Path(os.path.realpath(folder))  # which survives a loop of links
        entries: list[str] = []
        if not self.roots.hold(real):  # must not even be listed
            raise OutsideLink(self.folder, folder, real)
        if real.is_dir():
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
        if not self.roots.hold(real):
            raise OutsideLink(self.folder, path, real)
        if not stat.S_ISREG(mode):
            raise UnusableImage(f"{path}: is not a regular file; image_id {show(image_id)} needs one")
        return path
