"""Comma separated files from strangers: decoded, checked and handed out row by row.

Nothing here knows what a column means. Whatever is wrong with the file becomes one `InputError`
with the file, the line (1-based, the header is line 1) and what to do; memory stays bounded,
because lines, cells and files have a greatest size.
"""

import csv
import os
import stat
from collections.abc import Iterator

from csr.data.labels.names import MAX_NAME_LENGTH, clean_name, name_key, print_key, show, show_some
from csr.runtime.errors import InputError

MAX_LINE_BYTES = 2**20
MAX_FILE_BYTES = 2**30
_BOM = b"\xef\xbb\xbf"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "'|'"}


def read_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields `(line, cells)`, the header first; blanks around cells are cut, blank lines skipped.

    Args:
        path: a UTF-8 file (with or without a byte order mark), comma separated, quoted as RFC 4180
            says. Every row has as many cells as the header.

    Raises:
        InputError: not a readable regular file, not UTF-8, NUL bytes, broken quotes, a line over 1
            MiB or a cell over 128 KiB, a row of another width, or no line at all.
    """
    _check_file(path)
    reader = csv.reader(_decoded_lines(path), strict=True, skipinitialspace=True)
    width, after = 0, 1
    try:
        for cells in reader:
            line, after = after, reader.line_num + 1
            cells = [cell.strip() for cell in cells]
            if len(cells) <= 1 and not any(cells):
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise InputError(
                    f"{path} line {line}: {len(cells)} cells where the header has {width} columns; "
                    "write one cell for each column and quote cells that hold commas"
                )
            yield line, cells
    except csv.Error as error:
        lone = "new-line" in str(error)  # Python's text is advice to programmers
        reason = "a carriage return without a line feed" if lone else error
        raise InputError(
            f"{path} line {reader.line_num}: {reason}; save the file as 'CSV UTF-8' with commas, "
            "closed quotes and Unix or Windows line ends"
        ) from None
    if not width:
        raise InputError(f"{path}: the file is empty; it needs a header line and one row per image")


def _check_file(path: str | os.PathLike[str]) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise InputError(
            f"{show(os.fspath(path), limit=400)}: cannot be read ({reason}); give the path of a CSV file"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a file; give the path of a CSV file")
    if status.st_size > MAX_FILE_BYTES:
        raise InputError(f"{path}: is larger than 1 GiB, which is no label table; give the CSV file")


def _decoded_lines(path: str | os.PathLike[str]) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                raw = raw.removeprefix(_BOM) if number == 1 else raw
                yield _decode(raw, f"{path} line {number}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check it and its rights") from None


def _decode(raw: bytes, where: str) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise InputError(f"{where}: longer than 1 MiB; this is not a label table, or a quote is open")
    if b"\0" in raw:
        raise InputError(f"{where}: holds NUL bytes (UTF-16 or damaged); save it as 'CSV UTF-8'")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as 'CSV UTF-8'"
        ) from None


def read_header(
    rows: Iterator[tuple[int, list[str]]],
    path: str | os.PathLike[str],
    *,
    required: tuple[str, ...],
    known: tuple[str, ...] = (),
) -> list[str]:
    """Takes the header off `rows` and returns its cleaned names, checked to be unambiguous.

    Args:
        rows: what `read_rows` gave.
        path: the file, for messages.
        required: names that must be there (case does not matter).
        known: further names with a meaning; a column that only looks like one of them is an error.
    """
    line, cells = next(rows)
    where = f"{path} line {line}"
    _check_separator(cells, where)
    names = [clean_name(cell) for cell in cells]
    seen: dict[str, int] = {}
    meant = {print_key(name): name for name in (*required, *known)}
    for number, name in enumerate(names, 1):
        if not name:
            raise InputError(
                f"{where}: column {number} has no name; name it or remove it "
                "(pandas writes such a column unless index=False)"
            )
        if len(name) > MAX_NAME_LENGTH:
            raise InputError(f"{where}: the name of column {number} is longer than {MAX_NAME_LENGTH}")
        first = seen.setdefault(print_key(name), number)
        if first != number:
            raise InputError(
                f"{where}: columns {first} and {number} have the same name, "
                f"{show(cells[first - 1])} and {show(cells[number - 1])}; rename or remove one"
            )
        twin = meant.get(print_key(name))
        if twin is not None and name_key(name) != name_key(twin):
            raise InputError(
                f"{where}: column {number}, {show(name)}, looks like {twin!r} but has letters of "
                "another alphabet; type the name again"
            )
    _check_required(names, where, required)
    return names


def _check_separator(cells: list[str], where: str) -> None:
    """Other signs than commas stand between names; the names themselves may hold a few of either."""
    line = ",".join(cells)
    found = [
        name for sign, name in _SEPARATORS.items() if sign in cells[0] and line.count(sign) >= len(cells)
    ]
    if found:
        raise InputError(
            f"{where}: columns are separated with {found[0]}; separate columns with commas (save it as 'CSV UTF-8')"
        )


def _check_required(names: list[str], where: str, required: tuple[str, ...]) -> None:
    keys = {name_key(name) for name in names}
    for name in required:
        if name_key(name) in keys:
            continue
        found = show_some([show(name) for name in names], limit=8)
        raise InputError(f"{where}: no column {name!r} (found: {found}); add a column {name!r} or rename one")
