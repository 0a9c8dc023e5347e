"""Groups of images by a column of the label table's file: sex, scanner, hospital."""

from __future__ import annotations

import os

import numpy as np

from csr.data.labels.csv_file import read_rows
from csr.data.labels.csv_header import read_header
from csr.data.labels.names import image_key, name_key, show, show_some
from csr.data.labels.table import LabelTable
from csr.runtime.errors import InputError

MAX_GROUPS = 50
NOT_GIVEN = "(not given)"


def read_groups(path: str | os.PathLike[str], column: str, *, table: LabelTable) -> dict[str, np.ndarray]:
    """Return the images of each value of a column.

    Args:
        path: the file that `table` was read from.
        column: its name, case does not matter.
        table: the labels.

    Returns:
        value -> places in the table, int64, the largest group first; `NOT_GIVEN` for empty cells.

    Raises:
        InputError: no such column, an image with two values, more than `MAX_GROUPS` values.
    """
    rows = read_rows(path)
    header = [name_key(name) for name in read_header(rows, path, required=("image_id", column))]
    image_at, value_at = header.index("image_id"), header.index(name_key(column))
    place_of = {image_key(name): place for place, name in enumerate(table.image_ids)}
    value_N = [""] * len(table)
    for line, cells in rows:
        place, value = place_of[image_key(cells[image_at])], cells[value_at]
        if value and value_N[place] and value != value_N[place]:
            raise InputError(
                f"{path} line {line}, column {show(column)}: {show(value)}, but another row of image "
                f"{show(table.image_ids[place])} has {show(value_N[place])}; give one value for each image"
            )
        value_N[place] = value_N[place] or value
    groups: dict[str, list[int]] = {}
    for place, value in enumerate(value_N):
        groups.setdefault(value or NOT_GIVEN, []).append(place)
    if len(groups) > MAX_GROUPS:
        some = show_some([show(value) for value in groups], limit=5)
        raise InputError(
            f"{path}: column {show(column)} has {len(groups)} different values ({some}); "
            f"give one with at most {MAX_GROUPS}, e.g. ranges instead of numbers"
        )
    largest_first = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return {value: np.asarray(places, dtype=np.int64) for value, places in largest_first}
