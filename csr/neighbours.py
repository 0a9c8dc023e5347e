"""The training regions behind prototypes (paper, Eq. 11), as an atlas lists them in its nearest.json.

    {"format": "csr-nearest", "format_version": 1, "concept_names": [..], "num_prototypes": M,
     "prototypes": [{"concept": k, "prototype": m,
                     "nearest": [{"image": "train/a.png", "box": [x_min, y_min, x_max, y_max],
                                  "similarity": 0.93}, ..]}, ..]}

`nearest` is sorted, the most similar first; boxes are fractions of the image; image paths are absolute or
relative to the atlas's folder. Prototypes may be left out.

Letters: K concepts, M prototypes per concept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr.errors import InputError
from csr.model.sharing import read_config

FILE_NAME = "nearest.json"
FORMAT, FORMAT_VERSION = "csr-nearest", 1


@dataclass(frozen=True)
class Neighbour:
    """A training vector near a prototype.

    Attributes:
        image: the training image's file; it may be gone.
        box: of the region, fractions of the image.
        similarity: cosine of the vector and the prototype.
    """

    image: Path
    box: tuple[float, float, float, float]
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        return {"image": str(self.image), "box": list(self.box), "similarity": self.similarity}


Neighbours = dict[tuple[int, int], list[Neighbour]]  # by (k, m), the most similar first


def read_neighbours(folder: Path, *, concept_names: tuple[str, ...], num_prototypes: int) -> Neighbours:
    """Read an atlas's nearest.json.

    Args:
        folder: of the atlas.
        concept_names, num_prototypes: of the model that is explained.

    Raises:
        InputError: missing, damaged, or of another model.
    """
    path = folder / FILE_NAME
    value = read_config(path)
    if (value.get("format"), value.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise InputError(f"{path}: not an atlas's list ({FORMAT} version {FORMAT_VERSION})")
    if value.get("concept_names") != list(concept_names) or value.get("num_prototypes") != num_prototypes:
        raise InputError(f"{path}: of another model: its concepts or number of prototypes differ")
    entries = value.get("prototypes")
    if not isinstance(entries, list):
        raise InputError(f"{path}: 'prototypes' is no list")
    found: Neighbours = {}
    for number, entry in enumerate(entries):
        where = f"{path}: prototypes[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("nearest"), list):
            raise InputError(f"{where}: needs concept, prototype and nearest")
        key = (entry.get("concept"), entry.get("prototype"))
        if not (_in_range(key[0], len(concept_names)) and _in_range(key[1], num_prototypes)):
            raise InputError(f"{where}: no such prototype")
        found[key] = [_neighbour(one, folder, where) for one in entry["nearest"]]  # type: ignore[index]
    return found


def _in_range(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _neighbour(value: Any, folder: Path, where: str) -> Neighbour:
    if not isinstance(value, dict) or not isinstance(value.get("image"), str) or "\0" in value["image"]:
        raise InputError(f"{where}: a neighbour needs image, box and similarity")
    box = value.get("box")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(x) and 0 <= x <= 1 for x in box):
        raise InputError(f"{where}: box must be four fractions of the image")
    x_min, y_min, x_max, y_max = map(float, box)
    if not (x_min < x_max and y_min < y_max) or not _is_finite(value.get("similarity")):
        raise InputError(f"{where}: box is empty, or similarity is no number")
    return Neighbour(folder / value["image"], (x_min, y_min, x_max, y_max), float(value["similarity"]))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
