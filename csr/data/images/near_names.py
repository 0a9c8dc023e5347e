"""Files that a missing image id may have meant: another suffix or case, a changed number, a sub-folder."""

from __future__ import annotations

import os
import posixpath
import re
from decimal import Decimal
from pathlib import Path

from csr.data.labels.names import IMAGE_SUFFIXES, show

_DECODED_TOO = (".tif", ".tiff", ".bmp", ".webp", ".jp2", ".gif")
_NUMBER = re.compile(r"\d{1,64}(\.0{1,9})?", re.ASCII)
_ROUNDED = re.compile(r"\d(\.\d{1,32})?e\+?\d{1,2}", re.ASCII | re.IGNORECASE)
_DEPTH, _MOST_FILES = 3, 200_000


class NearNames:
    """Hints on ids without a file; the folder is looked through once, when the first hint is wanted.

    Args:
        folder: of the images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stems: dict[str, list[str]] | None = None
        self._numbers: dict[tuple[str, Decimal], str] | None = None

    def hint(self, image_id: str) -> str:
        """Return `: 'A1.png' is there, upper and lower case differ`, or '' where nothing is near."""
        below, name = posixpath.split(posixpath.normpath(image_id))
        stem, suffix = posixpath.splitext(name)
        known = suffix.lower() in (*IMAGE_SUFFIXES, *_DECODED_TOO)
        files = self._files_like(name) + (self._files_like(stem) if known else [])
        here = [posixpath.basename(f) for f in files if posixpath.dirname(f) == below]
        if here:
            return self._beside(here[0], stem if known else name)
        if files:
            path = posixpath.splitext(files[0])[0]
            where = f"{show(files[0])} lies in a sub-folder"
            return (
                f": {where}; write image_id {show(path)}" if len(files) == 1 else f": {where}, and others do"
            )
        return self._changed_number(below, stem if known else name)

    def _beside(self, file: str, wanted: str) -> str:
        stem, suffix = posixpath.splitext(file)
        if stem != wanted:
            return f": {show(file)} is there, upper and lower case differ"
        if suffix.lower() in IMAGE_SUFFIXES:
            return f": {show(file)} is there; write image_id without a suffix"
        return f": {show(file)} is there; write image_id with its suffix"

    def _changed_number(self, below: str, name: str) -> str:
        number = _number(name)
        if number is None:
            return ""
        file = self._numbered().get((below, number))
        if file is not None:
            return f": {show(file)} is there; a spreadsheet changed the number, import ids as text"
        if _ROUNDED.fullmatch(name):
            return ": a spreadsheet has rounded this number; export the table again with ids as text"
        return ""

    def _numbered(self) -> dict[tuple[str, Decimal], str]:
        """Return the files whose stem is a number by folder and exact value, however it is written."""
        if self._numbers is None:
            self._numbers = {}
            for file in (file for files in self._index().values() for file in files):
                below, name = posixpath.split(file)
                number = _number(posixpath.splitext(name)[0])
                if number is not None:
                    self._numbers.setdefault((below, number), file)
        return self._numbers

    def _files_like(self, stem: str) -> list[str]:
        return self._index().get(stem.casefold(), [])

    def _index(self) -> dict[str, list[str]]:
        """Return files down to some sub-folders, links to folders aside, by their stem without case."""
        if self._stems is None:
            self._stems, number = {}, 0
            for top, folders, files in os.walk(self.folder):
                below = Path(top).relative_to(self.folder).as_posix()
                if below.count("/") >= _DEPTH - 1 and below != ".":
                    folders.clear()
                for file in sorted(files):
                    stem, suffix = posixpath.splitext(file)
                    if suffix.lower() in (*IMAGE_SUFFIXES, *_DECODED_TOO):
                        path = file if below == "." else f"{below}/{file}"
                        self._stems.setdefault(stem.casefold(), []).append(path)
                        number += 1
                if number > _MOST_FILES:
                    break
        return self._stems


def _number(text: str) -> Decimal | None:
    return Decimal(text) if _NUMBER.fullmatch(text) or _ROUNDED.fullmatch(text) else None
