"""The fast parser of a table, for blocks whose lines are plainly one row each; pandas where rows are many.

What is plain is decided here, on the bytes: pandas reads files that are not valid without an error.

Letters: L lines of the block, R rows, W columns, V edges of cells (W + 1).
"""

from __future__ import annotations

import io

import numpy as np

from csr.data.labels.csv_blocks import Block, Column, are_few, column_of

MAX_LINE_BYTES = 2**20
BOM = b"\xef\xbb\xbf"
_MAX_CELL_BYTES = 2**17  # the limit of Python's csv module, which reads what is not plain
_NEWLINE, _RETURN, _QUOTE, _COMMA = b'\n\r",'
_ONE_BYTE_TEXTS = ["", *(chr(byte).strip() for byte in range(1, 128))]


def parse_plain(chunk: bytes, *, width: int, first_line: int) -> Block | None:
    """Return the rows of whole lines, or None unless each line surely is one row of `width` cells.

    Plain is UTF-8 with Unix or Windows line ends, where quotes, if any, enclose whole cells within a line.
    Blank lines are skipped. What is not plain may be valid or not: the strict reader decides.

    Args:
        chunk: lines of a file, the last one with or without its line end.
        width: W, 2 or more.
        first_line: number of the first line in the file.
    """
    if not _has_plain_bytes(chunk):
        return None
    data = np.frombuffer(chunk if chunk.endswith(b"\n") else chunk + b"\n", dtype=np.uint8)
    newline_L = np.flatnonzero(data == _NEWLINE)
    begin_L = np.concatenate([[0], newline_L[:-1] + 1])
    end_L = newline_L - (data[newline_L - 1] == _RETURN)
    comma = _separating_commas(data, newline_L)
    row_R = np.flatnonzero(end_L > begin_L)
    if comma is None or not len(row_R) or len(comma) != len(row_R) * (width - 1):
        return None
    if (newline_L - begin_L).max() >= MAX_LINE_BYTES:
        return None
    # Cell w of a row lies between the edges w and w + 1. As many commas as the rows need do not mean that
    # each row has its own: where they are elsewhere, the first or last cell of a row gets a negative size.
    edges = [begin_L[row_R, None] - 1, comma.reshape(len(row_R), -1), end_L[row_R, None]]
    edge_RV = np.concatenate(edges, axis=1, dtype=np.int32, casting="same_kind")
    size_RW = np.diff(edge_RV, axis=1) - 1
    if size_RW.min() < 0 or size_RW.max() > _MAX_CELL_BYTES:
        return None
    # A cell of at most one byte is its own code.
    byte_RW = np.where(size_RW == 1, data[edge_RV[:, :-1] + 1], np.uint8(0))
    numbers = np.flatnonzero(size_RW.max(axis=0) > 1).tolist()
    if are_few(len(numbers) * len(row_R)):
        wide = {w: _cut_out(chunk, edge_RV[:, w : w + 2]) for w in numbers}
    else:
        wide = _parse_wide(chunk, numbers, width)
    columns = [wide.get(w) or Column(_ONE_BYTE_TEXTS, byte_RW[:, w]) for w in range(width)]
    return Block(first_line + row_R, columns)


def _has_plain_bytes(chunk: bytes) -> bool:
    if b"\0" in chunk or chunk.startswith(BOM):
        return False
    if b"\r" in chunk and chunk.count(b"\r") != chunk.count(b"\r\n"):
        return False
    try:
        chunk.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _separating_commas(data: np.ndarray, newline_L: np.ndarray) -> np.ndarray | None:
    """Return the positions of commas outside of quotes; None if a quote is not that of a whole cell."""
    comma, quote = np.flatnonzero(data == _COMMA), np.flatnonzero(data == _QUOTE)
    if not len(quote):
        return comma
    if len(quote) % 2:
        return None
    opening, closing = quote[::2], quote[1::2]
    # Before the first byte comes the last one, a newline: a cell may begin there too.
    before, after = data[opening - 1], data[closing + 1]
    begins = (before == _COMMA) | (before == _NEWLINE)
    ends = (after == _COMMA) | (after == _NEWLINE) | (after == _RETURN)
    one_line = np.searchsorted(newline_L, opening) == np.searchsorted(newline_L, closing)
    if not (begins & ends & one_line).all():
        return None
    first, last = np.searchsorted(comma, opening), np.searchsorted(comma, closing)
    if (first == last).all():  # no comma is quoted
        return comma
    opened, closed = (np.bincount(place, minlength=len(comma) + 1) for place in (first, last))
    return comma[np.cumsum(opened - closed)[:-1] == 0]


def _cut_out(chunk: bytes, edge_R2: np.ndarray) -> Column:
    """Return one column of a plain block from the places before and behind its cells."""
    cells = (chunk[before + 1 : behind] for before, behind in edge_R2.tolist())
    texts = [(cell[1:-1] if cell.startswith(b'"') else cell).decode() for cell in cells]
    return column_of(np.asarray(texts, dtype=object))


def _parse_wide(chunk: bytes, numbers: list[int], width: int) -> dict[int, Column]:
    """Return columns of a plain block by number, parsed by pandas as text and nothing else."""
    if not numbers:
        return {}
    import pandas as pd  # here, as importing it takes a third of a second

    frame = pd.read_csv(
        io.BytesIO(chunk),
        header=None,
        names=range(width),
        usecols=numbers,
        index_col=False,
        dtype=object,
        na_filter=False,
        encoding="utf-8",
        engine="c",
        low_memory=False,
    )
    return {number: column_of(frame[number].to_numpy()) for number in numbers}
