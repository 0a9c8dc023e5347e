"""The prototypes of atlas.json, the flags of a small atlas, and regions by a slow loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

N = 12


def flags(model_folder: str, data: Path, out: Path, *more: str) -> list[str]:
    """Return the words of `csr atlas` on a folder with labels.csv and train/."""
    words = [model_folder, "--csv", str(data / "labels.csv"), "--dir", str(data / "train"), "--out", str(out)]
    return [*words, "--workers", "1", *more]


def prototypes(atlas: dict[str, Any]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield concept, prototype and record of every prototype in atlas.json."""
    for concept in atlas["concepts"]:
        for record in concept["prototypes"]:
            yield concept["concept"], record["prototype"], record


def flood(map_HW: np.ndarray) -> list[tuple[int, int]]:
    """Return the cells reached from the peak by steps between neighbours in the top quarter of the range."""
    limit = float(map_HW.min()) + 0.75 * (float(map_HW.max()) - float(map_HW.min()))
    todo = [tuple(np.unravel_index(map_HW.argmax(), map_HW.shape))]
    found = set(todo)
    while todo:
        y, x = todo.pop()
        for ny, nx in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            inside = 0 <= ny < map_HW.shape[0] and 0 <= nx < map_HW.shape[1]
            if inside and map_HW[ny, nx] >= limit and (ny, nx) not in found:
                found.add((ny, nx))
                todo.append((ny, nx))
    return sorted(found)
