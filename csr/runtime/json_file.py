"""Small JSON files that are not trusted: regular, of bounded size, no deeper than Python can follow."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_BYTES = 2**24


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: no regular file (a pipe would never end), larger than `max_bytes`, or not UTF-8.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"larger than {max_bytes // 2**20} MiB")
    return path.read_text(encoding="utf-8")


def parse_json(text: str, *, make_object: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return what a JSON text holds.

    Args:
        text: the whole of it; NaN and infinities, which are no JSON, are refused.
        make_object: called with the pairs of each object, in place of `dict`.

    Raises:
        ValueError: it is not JSON (json.JSONDecodeError knows the line), or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=make_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; raises as `read_text` and `parse_json` do."""
    return parse_json(read_text(path))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
