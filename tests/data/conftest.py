"""Fixtures that write files and read tables for the tests of csr.data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from csr.data.labels.table import LabelTable, read_label_table


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes text or bytes into a file of the test's folder."""

    def write_file(text: str | bytes, name: str = "labels.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


@pytest.fixture
def read(write: Callable[..., Path]) -> Callable[..., LabelTable]:
    """Return a function that reads a label table from text."""
    return lambda text, **options: read_label_table(write(text), **options)
