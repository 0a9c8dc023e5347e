"""The header of a comma separated file: its names, cleaned and checked to be unambiguous."""

from __future__ import annotations

import os
from collections.abc import Iterator

from csr.data.labels.names import MAX_NAME_LENGTH, clean_name, name_key, print_key, show, show_some
from csr.data.labels.raw_headers import raw_header_hint
from csr.runtime.errors import InputError

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "'|'"}


def read_header(
    rows: Iterator[tuple[int, list[str]]],
    path: str | os.PathLike[str],
    *,
    required: tuple[str, ...],
    known: tuple[str, ...] = (),
) -> list[str]:
    """Take the header from `rows` and return its cleaned names, checked to be unambiguous.

    Args:
        rows: `(line, cells)` of the file, see `CsvFile.rows`.
        path: the file, for messages.
        required: names that must be there (case does not matter).
        known: further names with a meaning; a column that only looks like one of them is an error.

    Raises:
        InputError: names missing, empty, too long or alike; another separator than commas.
    """
    line, cells = next(rows)
    location = f"{path} line {line}"
    _check_separator(cells, location)
    keys = {name_key(cell) for cell in cells}
    # first of all: such headers have cells without a name, and what is missing is more than a column
    if "image_id" in required and "image_id" not in keys and (hint := raw_header_hint(cells)):
        raise InputError(f"{location}: {hint}")
    names = [clean_name(cell) for cell in cells]
    seen: dict[str, int] = {}
    meant = {print_key(name): name for name in (*required, *known)}
    for number, name in enumerate(names, 1):
        if not name:
            raise InputError(
                f"{location}: column {number} has no name; name it or remove it "
                "(pandas writes such a column unless index=False)"
            )
        if len(name) > MAX_NAME_LENGTH:
            raise InputError(f"{location}: the name of column {number} is longer than {MAX_NAME_LENGTH}")
        first = seen.setdefault(print_key(name), number)
        if first != number:
            raise InputError(
                f"{location}: columns {first} and {number} have the same name, "
                f"{show(cells[first - 1])} and {show(cells[number - 1])}; rename or remove one"
            )
        twin = meant.get(print_key(name))
        if twin is not None and name_key(name) != name_key(twin):
            raise InputError(
                f"{location}: column {number}, {show(name)}, looks like {twin!r} but has letters of "
                "another alphabet; type the name again"
            )
    _check_required(names, location, required)
    return names


def _check_separator(cells: list[str], location: str) -> None:
    """Raise an InputError for other separators than commas; names may hold a few of either."""
    line = ",".join(cells)
    used = [name for sign, name in _SEPARATORS.items() if sign in cells[0] and line.count(sign) >= len(cells)]
    if used:
        raise InputError(
            f"{location}: columns are separated with {used[0]}; separate columns with commas "
            "(save it as 'CSV UTF-8')"
        )


def _check_required(names: list[str], location: str, required: tuple[str, ...]) -> None:
    keys = {name_key(name) for name in names}
    for name in required:
        if name_key(name) in keys:
            continue
        columns = show_some([show(name) for name in names], limit=8)
        if name in ("x_min", "y_min", "x_max", "y_max") and keys >= {"x", "y"}:
            raise InputError(
                f"{location}: no column {name!r} but 'x' and 'y' (found: {columns}); give x_min, y_min, "
                "x_max = x + w and y_max = y + h"
            )
        raise InputError(
            f"{location}: no column {name!r} (found: {columns}); add a column {name!r} or rename one"
        )
