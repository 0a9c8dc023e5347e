"""The importers run as commands on small data sets in the published formats."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from csr.cli.data import main

Rows = list[dict[str, str]]


@pytest.fixture
def bring_in(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that runs `csr data NAME RAW OUT ..` and returns OUT."""

    def run(name: str, raw: Path, *flags: str, out: str = "out") -> Path:
        assert main([name, str(raw), str(tmp_path / out), *flags]) == 0
        return tmp_path / out

    return run


@pytest.fixture
def rows_of() -> Callable[[Path], Rows]:
    """Return a function that reads a CSV by Python's own reader."""

    def read(path: Path) -> Rows:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    return read
