"""Blocks of CSV rows, held column by column.

Each column holds its different texts and, for each row, a code into them, so that a check or a conversion
runs once for each text instead of once for each cell.

Letters: R rows of the block, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FEW_CELLS = 100_000  # read without pandas in less time than importing it takes


class Column(NamedTuple):
    """Cells of one column, blanks around them stripped.

    Attributes:
        texts: every text of the column; some may repeat, some may belong to no row.
        code_R: (R,) unsigned or signed integers, each row's place in `texts`.
    """

    texts: Sequence[str]
    code_R: np.ndarray

    def text(self, row: int) -> str:
        """Return the cell of a row."""
        return self.texts[self.code_R[row]]

    def each(self, function: Callable[[str], object], dtype: type) -> np.ndarray:
        """Return `function` of each cell, (R,) of `dtype`, computed once for each text."""
        return each_cell([self], function, dtype)[:, 0]


@dataclass(frozen=True, eq=False)
class Block:
    """Successive rows of a file.

    Attributes:
        line_R: (R,) int64, the line in which each row begins; the first line of a file is 1.
        columns: W columns of R cells.
    """

    line_R: np.ndarray
    columns: Sequence[Column]

    def __len__(self) -> int:
        return len(self.line_R)


class Problem(NamedTuple):
    """The first row of a block with an error.

    Attributes:
        row: its place in the block.
        text: `line 7: ...`, what follows the name of the file in the message.
    """

    row: int
    text: str


def are_few(num_cells: int) -> bool:
    """Return whether so many cells are read sooner without pandas."""
    return num_cells <= FEW_CELLS


def block_of_rows(rows: Sequence[tuple[int, list[str]]]) -> Block:
    """Return `(line, cells)` rows, at least one and all of one width, as a block."""
    lines, cells = zip(*rows)
    columns = [column_of(np.asarray(texts, dtype=object)) for texts in zip(*cells)]
    return Block(np.asarray(lines, dtype=np.int64), columns)


def column_of(text_R: np.ndarray) -> Column:
    """Return the column of R texts, an array of objects."""
    if are_few(len(text_R)):
        code_of: dict[str, int] = {}
        code_R = np.asarray([code_of.setdefault(text, len(code_of)) for text in text_R], dtype=np.int64)
        return Column([text.strip() for text in code_of], code_R)
    import pandas as pd

    code_R, texts = pd.factorize(text_R)
    return Column([text.strip() for text in texts], code_R)


def each_cell(columns: Sequence[Column], function: Callable[[str], object], dtype: type) -> np.ndarray:
    """Return `function` of each cell of some columns of a block, (R, len(columns)) of `dtype`."""
    value_RW: np.ndarray = np.empty((len(columns[0].code_R), len(columns)), dtype=dtype)
    values: dict[int, np.ndarray] = {}  # by the identity of the texts, which columns may share
    for w, (texts, code_R) in enumerate(columns):
        if id(texts) not in values:
            values[id(texts)] = np.asarray([function(text) for text in texts], dtype=dtype)
        value_RW[:, w] = values[id(texts)][code_R]
    return value_RW


def number_texts(column: Column, number_of: dict[str, int]) -> np.ndarray:
    """Return the number of each cell's text, (R,) int64; new texts get the next numbers in `number_of`."""
    for row in first_rows(column.code_R).tolist():
        number_of.setdefault(column.text(row), len(number_of))
    return column.each(lambda text: number_of.get(text, -1), np.int64)


def first_rows(value_R: np.ndarray) -> np.ndarray:
    """Return the places at which a value appears for the first time, int64, ascending."""
    if are_few(len(value_R)):
        return np.sort(np.unique(value_R, return_index=True)[1])
    import pandas as pd

    return np.flatnonzero(~pd.Series(value_R).duplicated().to_numpy())
