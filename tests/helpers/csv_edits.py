"""Edits of label tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def edit(path: Path, change: Callable[[list[list[str]]], object]) -> None:
    """Change the rows (lists of cells, the header first) of a CSV file in place."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(",".join(row) + "\n" for row in rows))


def without_column(rows: list[list[str]], name: str) -> None:
    at = rows[0].index(name)
    for row in rows:
        del row[at]


def first_image(data: Path, split: str = "train") -> str:
    return (data / f"labels_{split}.csv").read_text().splitlines()[1].split(",")[0]
