"""Comma separated files from untrusted sources: decoded, checked, and read in blocks or row by row.

Nothing here knows the meaning of a column. Whatever is wrong with the file becomes one `InputError` with the
file, the line (1-based, the header is line 1) and what to do; memory stays bounded, because blocks, lines,
cells and files have a greatest size.

Two parsers share the work. Blocks whose lines are plainly one row each go through pandas; all others, and
with them everything that is wrong, go through Python's strict `csv` reader, which knows the line of an error.
"""

from __future__ import annotations

import csv
import math
import os
import stat
from collections.abc import Iterator
from types import TracebackType

from csr.data.labels.csv_blocks import Block, block_of_rows
from csr.data.labels.csv_plain import BOM, MAX_LINE_BYTES, parse_plain
from csr.data.labels.names import show
from csr.runtime.errors import InputError

MAX_FILE_BYTES = 2**30
BLOCK_BYTES = 2**21


def read_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield `(line, cells)` of a small file, the header first; see `CsvFile.rows`.

    Raises:
        InputError: see `CsvFile`.
    """
    with CsvFile(path) as file:
        yield from file.rows()


class CsvFile:
    """An open file whose rows are taken once, from the first to the last.

    Args:
        path: a UTF-8 file (with or without a byte order mark), comma separated, quoted as RFC 4180 demands.
            Every row has as many cells as the header.

    Raises:
        InputError: now or at a row: not a readable regular file, not UTF-8, NUL bytes, broken quotes, a line
            over 1 MiB or a cell over 128 KiB, a row of another width, or no line at all.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        _check_file(path)
        self.path = path
        self._width = self._num_lines = self._position = 0  # of the header; of what was read so far
        try:
            self._file = open(path, "rb")
        except OSError as error:
            raise self._unreadable(error) from None

    def __enter__(self) -> CsvFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def rows(self, *, until: float = math.inf) -> Iterator[tuple[int, list[str]]]:
        """Yield `(line, cells)`; blanks around cells are stripped, blank lines skipped.

        Args:
            until: byte of the file at or behind which no row begins any more.
        """
        reader = csv.reader(self._lines(), strict=True, skipinitialspace=True)
        while self._position < until:
            line = self._num_lines + 1
            try:
                cells = [cell.strip() for cell in next(reader)]
            except StopIteration:
                break
            except csv.Error as error:
                raise self._unparsable(error) from None
            if len(cells) <= 1 and not any(cells):
                continue
            self._width = self._width or len(cells)
            if len(cells) != self._width:
                raise InputError(
                    f"{self.path} line {line}: {len(cells)} cells where the header has {self._width} "
                    "columns; write one cell for each column and quote cells that hold commas"
                )
            yield line, cells
        if not self._width:
            raise InputError(f"{self.path}: the file is empty; it needs a header line and one row per image")

    def blocks(self) -> Iterator[Block]:
        """Yield the rows below the header, which `rows` gave, in blocks of at least one row.

        Rows above the first error are yielded before it is raised: errors appear in the order of the file.
        """
        assert self._width, "the header comes first"
        while chunk := self._read_chunk():
            block = None
            if self._width > 1:
                block = parse_plain(chunk, width=self._width, first_line=self._num_lines + 1)
            if block is None:
                self._file.seek(self._position)
                yield from self._strict_block(until=self._position + len(chunk))
            else:
                self._position += len(chunk)
                self._num_lines += chunk.count(b"\n")
                yield block

    def _strict_block(self, *, until: int) -> Iterator[Block]:
        rows: list[tuple[int, list[str]]] = []
        problem = None
        try:
            for row in self.rows(until=until):
                rows.append(row)
        except InputError as error:
            problem = error
        if rows:
            yield block_of_rows(rows)
        if problem is not None:
            raise problem

    def _read_chunk(self) -> bytes:
        """Return whole lines, about `BLOCK_BYTES` of them; b'' at the end of the file."""
        try:
            chunk = self._file.read(BLOCK_BYTES)
            return chunk if chunk.endswith(b"\n") else chunk + self._file.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise self._unreadable(error) from None

    def _lines(self) -> Iterator[str]:
        try:
            while raw := self._file.readline(MAX_LINE_BYTES + 1):
                self._num_lines += 1
                self._position += len(raw)
                raw = raw.removeprefix(BOM) if self._num_lines == 1 else raw
                yield _decode(raw, f"{self.path} line {self._num_lines}")
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be read ({error.strerror}); check it and its rights")

    def _unparsable(self, error: csv.Error) -> InputError:
        lone = "new-line" in str(error)  # Python's text is advice to programmers
        reason = "a carriage return without a line feed" if lone else error
        return InputError(
            f"{self.path} line {self._num_lines}: {reason}; save the file as 'CSV UTF-8' with commas, "
            "closed quotes and Unix or Windows line ends"
        )


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


def _decode(raw: bytes, location: str) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise InputError(f"{location}: longer than 1 MiB; this is not a label table, or a quote is open")
    if b"\0" in raw:
        raise InputError(f"{location}: holds NUL bytes (UTF-16 or damaged); save it as 'CSV UTF-8'")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{location}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as 'CSV UTF-8'"
        ) from None
