"""Tables of published data sets as they are: packed with gzip, with columns that have no name."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from csr.data.labels.csv_file import MAX_FILE_BYTES, read_rows
from csr.data.labels.names import name_key, show, show_some
from csr.runtime.errors import InputError

_CHUNK_BYTES = 2**20


def published_rows(
    path: Path, *, columns: tuple[str, ...], scratch: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the location of each row (`file line 7`) and its cells by the names of `columns`.

    Args:
        path: a CSV file, or one packed with gzip (`.csv.gz`).
        columns: that must be there once, in any order and case; all others, with or without a name, are
            ignored.
        scratch: folder in which a packed file is unpacked for the time of reading.

    Raises:
        InputError: see `csr.data.labels.csv_file`; a column is missing or there twice; broken gzip.
    """
    with _plain(path, scratch) as plain:
        rows = read_rows(plain)
        _, header = next(rows)
        keys = [name_key(name) for name in header]
        for name in columns:
            if keys.count(name_key(name)) != 1:
                found = show_some([show(cell) for cell in header if cell], limit=8)
                times = "no" if name_key(name) not in keys else "more than one"
                raise InputError(
                    f"{path} line 1: {times} column {show(name)} (found: {found}); give the published file"
                )
        place = {name: keys.index(name_key(name)) for name in columns}
        for line, cells in rows:
            yield f"{path} line {line}", {name: cells[number] for name, number in place.items()}


@contextlib.contextmanager
def _plain(path: Path, scratch: Path) -> Iterator[Path]:
    """Enclose the reading of an unpacked copy; messages name the packed file."""
    if path.suffix != ".gz":
        yield path
        return
    copy = scratch / path.stem
    try:
        _unpack(path, copy)
        yield copy
    except InputError as error:
        raise InputError(str(error).replace(str(copy), str(path))) from None
    finally:
        copy.unlink(missing_ok=True)


def _unpack(path: Path, copy: Path) -> None:
    size = 0
    try:
        packed = open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check it and its rights") from None
    with packed, open(copy, "wb") as target:
        try:
            with gzip.GzipFile(fileobj=packed) as source:
                while chunk := source.read(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > MAX_FILE_BYTES:
                        raise InputError(f"{path}: unpacks to more than 1 GiB; the published file does not")
                    target.write(chunk)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path}: is no whole gzip file ({error}); download it again") from None
