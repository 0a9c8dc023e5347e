"""The runs of a sweep whose grid is written for a test."""

from __future__ import annotations

import json
from pathlib import Path

from csr.cluster.grid import SweepRun, read_grid


def grid(tmp_path: Path, content: object, *flags: str) -> tuple[list[SweepRun], tuple[str, ...]]:
    """Write a grid, JSON or the text of one, and read its runs; their results go below `tmp_path`."""
    path = tmp_path / "grid.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_grid(path, ["--output_dir", str(tmp_path / "out"), *flags])
