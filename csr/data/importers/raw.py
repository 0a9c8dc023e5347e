"""Files of a published data set, read strictly: what is missing or odd becomes one line with file and fix.

Letters: L labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csr.data.images.links import OutsideLink, Roots
from csr.data.labels.csv_file import CsvFile, read_rows
from csr.data.labels.csv_header import read_header
from csr.data.labels.label_cells import INVALID, label_codes
from csr.data.labels.names import id_problem, name_key, show, show_some
from csr.runtime.errors import InputError

MAX_JSON_BYTES = 2**28
_TEXT_OF_CODE = np.asarray(["0", "1", "", ""], dtype=object)


class BadImage(InputError):
    """An image of a table without a file that can be used."""


@dataclass(frozen=True)
class Raw:
    """A folder that holds a published data set.

    Attributes:
        folder: as the user named it.
        dataset: its name, for messages.
    """

    folder: Path
    dataset: str

    def file(self, *names: str) -> Path:
        """Return the first of these names that is a file.

        Raises:
            InputError: none of them is.
        """
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        others = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
        raise InputError(
            f"{self.folder / names[0]}: no such file{others}: it is part of {self.dataset}; give the folder "
            "that holds the whole data set, unpacked, as RAW"
        )

    def entries(self, place: str = "") -> list[str]:
        """Return the names of the files and folders in a place below the folder, sorted.

        Raises:
            InputError: it cannot be listed.
        """
        try:
            return sorted(os.listdir(self.folder / place))
        except OSError as error:
            raise InputError(
                f"{self.folder / place}: cannot be listed ({error.strerror}); check its rights"
            ) from None

    def subfolder(self, *names: str) -> Path:
        """Return the first of these names that is a folder.

        Raises:
            InputError: none of them is.
        """
        for name in names:
            if (self.folder / name).is_dir():
                return self.folder / name
        others = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
        raise InputError(
            f"{self.folder / names[0]}: no such folder{others}: it is part of {self.dataset}; give the "
            "folder that holds the whole data set, unpacked, as RAW"
        )


def open_raw(folder: Path, dataset: str) -> Raw:
    """Return the folder of a data set.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that {dataset} was unpacked into")
    return Raw(folder, dataset)


class ImageFiles:
    """The image files of a folder by name, each checked to stay inside the folder.

    Args:
        folder: may itself be a link; it and the folders below it that names have in front are listed once.
        suffixes: of images, lower case.
        links_into: other folders that links to files and sub-folders may lead into.

    Raises:
        InputError: one of these is no folder.
    """

    def __init__(self, folder: Path, suffixes: tuple[str, ...], *, links_into: Sequence[str] = ()) -> None:
        self.folder, self.suffixes = folder, suffixes
        self._roots = Roots(folder, links_into)
        self._names: dict[str, set[str]] = {}

    def find(self, stem: str, *, location: str) -> str:
        """Return the name of the image file of a stem, relative to the folder.

        Args:
            stem: file name without its suffix, `/` between folders.
            location: file and line that names it, for messages.

        Raises:
            BadImage: no such file, or a link that leads nowhere.
            InputError: a name or a link that leaves the folder.
        """
        problem = id_problem(stem)
        if problem:
            raise InputError(f"{location}: image name {show(stem)} {problem}")
        below, _, name = stem.rpartition("/")
        if below not in self._names:
            self._names[below] = _listed(self._inside(self.folder / below, location))
        for suffix in self.suffixes:
            if f"{name}{suffix}" in self._names[below]:
                return self._checked(f"{stem}{suffix}", location)
        tried = " ".join(self.suffixes)
        raise BadImage(f"{location}: image {show(stem)} is not in {self.folder} ({tried}); download it again")

    def _checked(self, name: str, location: str) -> str:
        path = self.folder / name
        if not self._inside(path, location).is_file():
            raise BadImage(f"{location}: {path} is no file, or a link that leads nowhere; put the file there")
        return name

    def _inside(self, path: Path, location: str) -> Path:
        """Return a path without links, which may lead nowhere."""
        real = Path(os.path.realpath(path))  # which survives a loop of links
        if not self._roots.hold(real):
            raise InputError(f"{location}: {OutsideLink(self.folder, path, real)}")
        return real


def _listed(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def read_table(
    path: Path, *, columns: Collection[str], optional: Collection[str] = (), more: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the location of each row (`file line 7`) and its cells by the names of `columns`.

    Args:
        path: a CSV file.
        columns: that must be there, in any order and case.
        optional: that may be there; '' if they are not.
        more: further columns are ignored and no error.

    Raises:
        InputError: see `csr.data.labels.csv_file`; columns that the published file does not have.
    """
    rows = read_rows(path)
    names = (*columns, *optional)
    place = _places(path, read_header(rows, path, required=tuple(columns)), names, more=more)
    for line, cells in rows:
        yield f"{path} line {line}", {name: cells[place[name]] if name in place else "" for name in names}


def read_labels(
    path: Path, *, keys: Collection[str], labels: Sequence[str], optional: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """Yield the location of each row, its key cells by name, and its labels: 0, 1 or '' (not annotated).

    Args:
        path: a CSV file with no further columns.
        keys: columns of text that must be there.
        labels: L columns of labels, in the order in which they are yielded.
        optional: columns of text that may be there; '' if they are not.

    Raises:
        InputError: as of `read_table`; a cell that is no label.
    """
    with CsvFile(path) as file:
        header = read_header(file.rows(), path, required=(*keys, *labels))
        place = _places(path, header, (*keys, *labels, *optional))
        for block in file.blocks():
            code_RL = label_codes([block.columns[place[name]] for name in labels])
            texts_R = _TEXT_OF_CODE[code_RL].tolist()
            invalid_R = (code_RL == INVALID).any(axis=1)
            for row, line in enumerate(block.line_R.tolist()):
                location = f"{path} line {line}"
                if invalid_R[row]:
                    name = labels[int(np.argmax(code_RL[row] == INVALID))]
                    cell = show(block.columns[place[name]].text(row))
                    raise InputError(
                        f"{location}, column {show(name)}: {cell} is not 0, 1 or empty; "
                        "download the file again"
                    )
                cells = {
                    name: block.columns[place[name]].text(row) if name in place else ""
                    for name in (*keys, *optional)
                }
                yield location, cells, texts_R[row]


def _places(path: Path, header: list[str], names: tuple[str, ...], *, more: bool = False) -> dict[str, int]:
    """Return the column of each name that the file has."""
    known = {name_key(name) for name in names}
    extra = [show(name) for name in header if name_key(name) not in known]
    if extra and not more:
        raise InputError(f"{path} line 1: the published file has no column {show_some(extra)}; remove it")
    place = {name_key(name): number for number, name in enumerate(header)}
    return {name: place[name_key(name)] for name in names if name_key(name) in place}


def read_json(path: Path) -> Any:
    """Return parsed JSON.

    Raises:
        InputError: larger than `MAX_JSON_BYTES`, not UTF-8 or not JSON.
    """
    try:
        if path.stat().st_size <= MAX_JSON_BYTES:
            return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: is not JSON ({reason}); download it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    raise InputError(f"{path}: larger than {MAX_JSON_BYTES >> 20} MiB; the published file is not")
