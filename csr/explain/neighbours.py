"""The training regions behind prototypes (paper, Eq. 11), as an atlas lists them in its nearest.json.

    {"format": "csr-nearest", "format_version": 2, "concept_names": [..], "num_prototypes": M,
     "prototypes": [{"concept": k, "prototype": m, "vector": "v0123456789ab",
                     "nearest": [{"image": "train/a.png", "box": [x_min, y_min, x_max, y_max],
                                  "similarity": 0.93, "image_id": "a"}, ..]}, ..]}

`vector` names the prototype (`vector_names`), so that an atlas of another model is recognised.
`nearest` is sorted, the most similar first; boxes are fractions of the image; image paths are absolute or
relative to the atlas's folder. Prototypes may be left out.

Letters: K concepts, M prototypes per concept, D embedding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csr.data.labels.names import show, show_some
from csr.model import CSR
from csr.model.sharing.config_file import read_config
from csr.runtime.errors import InputError

FILE_NAME = "nearest.json"
FORMAT, FORMAT_VERSION = "csr-nearest", 2
_DIGITS = 12


@dataclass(frozen=True)
class Neighbour:
    """A training vector near a prototype.

    Attributes:
        image: the training image's file; it may be gone.
        box: of the region, fractions of the image.
        similarity: cosine of the vector and the prototype.
        image_id: of the label table; "" where the list has none.
    """

    image: Path
    box: tuple[float, float, float, float]
    similarity: float
    image_id: str = ""

    def to_dict(self, *, show_ids: bool) -> dict[str, Any]:
        """Return plain JSON: box and similarity; with names the file's, without its folder, and the id."""
        fields = {"box": list(self.box), "similarity": self.similarity}
        if not show_ids:
            return fields
        named = {"image": self.image.name, **fields}
        return {**named, "image_id": self.image_id} if self.image_id else named


Neighbours = dict[tuple[int, int], list[Neighbour]]  # by (k, m), the most similar first


def vector_names(model: CSR) -> np.ndarray:
    """Return a short name of each prototype's vector, (K,M) text; "" where it was dropped.

    Refining keeps vectors, so an atlas of the model before still fits. The name is made of the stored fp32
    values: unit vectors would come out of another device or machine with other last bits. It begins with a
    letter because a spreadsheet turns digits, with or without an e between them, into a rounded number.
    """
    proto_KMD = model.prototypes.proto_KMD.detach().cpu().float().numpy().astype("<f4")
    kept_KM = model.prototypes.kept_KM.cpu().numpy()
    name_KM = np.full(kept_KM.shape, "", dtype=f"<U{_DIGITS + 1}")
    for k, m in np.argwhere(kept_KM):
        name_KM[k, m] = "v" + hashlib.sha256(proto_KMD[k, m].tobytes()).hexdigest()[:_DIGITS]
    return name_KM


def of_another_model(where: object, differing: Sequence[tuple[str, int]]) -> InputError:
    """Return the error where vectors of some (concept, prototype) are not the model's."""
    names = show_some([f"{show(name)} {m}" for name, m in differing], limit=4)
    return InputError(
        f"{where}: belongs to another model, whose prototypes have other vectors ({names}): run `csr atlas` "
        "on this one"
    )


def read_neighbours(folder: Path, model: CSR) -> Neighbours:
    """Read an atlas's nearest.json.

    Args:
        folder: of the atlas.
        model: that is explained, with a card; prototypes that it has dropped are not compared.

    Raises:
        InputError: missing, damaged, or of another model.
    """
    assert model.card is not None
    concept_names, num_prototypes = model.card.concept_names, model.num_prototypes_per_concept
    path = folder / FILE_NAME
    value = read_config(path)
    if (value.get("format"), value.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise InputError(
            f"{path}: not an atlas's list ({FORMAT} version {FORMAT_VERSION}): run `csr atlas` again"
        )
    if value.get("concept_names") != list(concept_names) or value.get("num_prototypes") != num_prototypes:
        raise InputError(f"{path}: of another model: its concepts or number of prototypes differ")
    entries = value.get("prototypes")
    if not isinstance(entries, list):
        raise InputError(f"{path}: 'prototypes' is no list")
    found: Neighbours = {}
    differing: list[tuple[str, int]] = []
    name_KM = vector_names(model)
    for number, entry in enumerate(entries):
        where = f"{path}: prototypes[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("nearest"), list):
            raise InputError(f"{where}: needs concept, prototype, vector and nearest")
        k, m = entry.get("concept"), entry.get("prototype")
        if not (_in_range(k, len(concept_names)) and _in_range(m, num_prototypes)):
            raise InputError(f"{where}: no such prototype")
        assert isinstance(k, int) and isinstance(m, int)
        found[k, m] = [_neighbour(one, folder, where) for one in entry["nearest"]]
        if name_KM[k, m] not in ("", entry.get("vector")):
            differing.append((concept_names[k], m))
    if differing:
        raise of_another_model(path, differing)
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
    image_id = value.get("image_id", "")
    if not isinstance(image_id, str):
        raise InputError(f"{where}: image_id is no text")
    box_4 = (x_min, y_min, x_max, y_max)
    return Neighbour(folder / value["image"], box_4, float(value["similarity"]), image_id)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
