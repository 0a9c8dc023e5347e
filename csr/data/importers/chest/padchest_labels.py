"""Labels, patients and files of PadChest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from csr.data.labels.names import clean_name, show
from csr.runtime.errors import InputError

NORMAL = "normal"
# the branch 'differential diagnosis' of the published tree of labels
DIAGNOSES = (
    "pneumonia",
    "atypical pneumonia",
    "tuberculosis",
    "tuberculosis sequelae",
    "lung metastasis",
    "lymphangitis carcinomatosa",
    "lepidic adenocarcinoma",
    "pulmonary fibrosis",
    "post radiotherapy changes",
    "asbestosis signs",
    "emphysema",
    "copd signs",
    "heart insufficiency",
    "respiratory distress",
    "pulmonary hypertension",
    "pulmonary artery hypertension",
    "pulmonary venous hypertension",
    "pulmonary edema",
    "bone metastasis",
)
NOT_LABELED = frozenset({"exclude", "unchanged"})
QUALITY = frozenset({"suboptimal study"})
_ITEM = r"""\s*(?:'[^']*'|"[^"]*")\s*"""
_LIST = re.compile(rf"\[(?:{_ITEM}(?:,{_ITEM})*)?\s*\]")
_PNG_END = b"IEND\xaeB`\x82"


def label_list(text: str, *, location: str) -> list[str]:
    """Return the labels of a cell: ['a', 'b'] of `['a', ' b', '']`; none of `nan` and of an empty cell.

    Raises:
        InputError: no list of quoted texts.
    """
    if text in ("", "nan"):
        return []
    if not _LIST.fullmatch(text):
        raise InputError(f"{location}: Labels {show(text)} is no list ['a', 'b']; give the published file")
    items = (clean_name(item[1:-1]) for item in re.findall(r"""'[^']*'|"[^"]*\"""", text))
    return list(dict.fromkeys(item for item in items if item))


def is_test_patient(patient: str, fraction: float) -> bool:
    """Return whether a patient is one of about `fraction` of all that are for the test; there is no seed."""
    number = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big")
    return number < fraction * 2**64


def file_problem(path: Path) -> str | None:
    """Return what is wrong with an image file, or None, from its header and its last bytes.

    Decoding every pixel would take hours; a broken download shows in an empty or shortened file.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            is_png = image.format == "PNG"
        with open(path, "rb") as file:
            file.seek(-len(_PNG_END), 2)
            end = file.read()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
        return "cannot be opened as an image"
    return "is cut short" if is_png and end != _PNG_END else None
