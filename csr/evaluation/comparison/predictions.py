"""test_predictions.csv: probability and label of every test image, for comparisons image by image.

Letters: N images, L labels of one kind (K concepts or T targets).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csr.data.labels.csv_file import read_rows
from csr.data.labels.names import show
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic

FILE_NAME = "test_predictions.csv"
KINDS = ("target", "concept")
_COLUMN = re.compile(r"(target|concept) (probability|label) (.+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Scored:
    """Labels of one kind.

    Attributes:
        names: of the L labels.
        probability_NL: float32, 0 to 1.
        label_NL: float32, 0 to 1, NaN where not annotated.
    """

    names: tuple[str, ...]
    probability_NL: np.ndarray
    label_NL: np.ndarray


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about test images, and what is true of them.

    Attributes:
        image_ids: of the N images.
        kinds: `target` and `concept`; a model without one of them has no labels of that kind.
    """

    image_ids: tuple[str, ...]
    kinds: dict[str, Scored]


def predictions_text(predictions: Predictions) -> str:
    """Return CSV text: `image_id`, then `KIND probability NAME` and `KIND label NAME` of each label.

    Numbers are as short as float32 allows without loss; an empty cell is not annotated.
    """
    header, columns = ["image_id"], []
    for kind in KINDS:
        scored = predictions.kinds[kind]
        for name, probability_N, label_N in zip(
            scored.names, scored.probability_NL.T, scored.label_NL.T, strict=True
        ):
            header += [f"{kind} probability {name}", f"{kind} label {name}"]
            columns += [_cells(probability_N), _cells(label_N)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(zip(predictions.image_ids, *columns, strict=True))
    return text.getvalue()


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write test_predictions.csv into a folder, whole or not at all; raises OSError."""
    content = predictions_text(predictions).encode("utf-8", "backslashreplace")
    write_atomic(folder / FILE_NAME, lambda file: file.write(content))


def _cells(value_N: np.ndarray) -> list[str]:
    return ["" if np.isnan(value) else str(value) for value in value_N.astype(np.float32)]


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        InputError: it cannot be read, a column is of another kind or missing, an image is there twice, or a
            cell holds no number from 0 to 1.
    """
    rows = read_rows(path)
    _, header = next(rows)
    places = _places(path, header)
    image_ids: dict[str, int] = {}
    values = []
    for line, cells in rows:
        if cells[0] in image_ids:
            raise InputError(f"{path}, line {line}: {show(cells[0])} is there twice: write the file again")
        image_ids[cells[0]] = line
        values.append([_number(path, line, header[i], cell) for i, cell in enumerate(cells[1:], start=1)])
    if not values:
        raise InputError(f"{path}: no image in it: write it again with csr evaluate --save_predictions")
    value_NC = np.asarray(values, dtype=np.float32)
    kinds = {}
    for kind in KINDS:
        of = {name: columns for (of_kind, name), columns in places.items() if of_kind == kind}
        scored = Scored(
            tuple(of),
            value_NC[:, [columns["probability"] - 1 for columns in of.values()]],
            value_NC[:, [columns["label"] - 1 for columns in of.values()]],
        )
        bad_N = np.isnan(scored.probability_NL).any(axis=1)
        if bad_N.any():
            line = list(image_ids.values())[int(np.argmax(bad_N))]
            raise InputError(f"{path}, line {line}: a probability is missing: write the file again")
        kinds[kind] = scored
    return Predictions(tuple(image_ids), kinds)


def _places(path: Path, header: Sequence[str]) -> dict[tuple[str, str], dict[str, int]]:
    """Return the columns of probability and label of each (kind, name)."""
    if header[0] != "image_id":
        raise InputError(f"{path}, line 1: the first column is {show(header[0])}, not 'image_id'")
    places: dict[tuple[str, str], dict[str, int]] = {}
    for i, cell in enumerate(header[1:], start=1):
        found = _COLUMN.fullmatch(cell)
        if found is None:
            raise InputError(
                f"{path}, line 1: column {show(cell)} is none that csr writes ('target probability NAME')"
            )
        kind, part, name = found.groups()
        columns = places.setdefault((kind, name), {})
        if part in columns:
            raise InputError(f"{path}, line 1: column {show(cell)} is there twice: write the file again")
        columns[part] = i
    for (kind, name), columns in places.items():
        if len(columns) != 2:
            raise InputError(f"{path}, line 1: {kind} {show(name)} lacks its probability or its label column")
    return places


def _number(path: Path, line: int, column: str, cell: str) -> float:
    if cell == "":
        return np.nan
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        raise InputError(f"{path}, line {line}: {show(column)} is {show(cell)}: give a number from 0 to 1")
    return value
