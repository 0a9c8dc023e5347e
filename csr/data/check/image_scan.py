"""The scan of image files: hash of the bytes, size, kind, and a thumbnail.

Letters: N images, S side of the thumbnail.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from csr.data.check.near_copies import THUMBNAIL_PX
from csr.data.images.dicom_file import is_dicom, open_dicom
from csr.data.images.dicom_grey import Note
from csr.data.images.png_texts import picture_source
from csr.data.images.resize import resize_file
from csr.runtime.errors import InputError
from csr.runtime.thread_map import mapped

_BIT_DEPTHS = {"1": 1, "I": 32, "F": 32}
_COLOURS = {"L": "grey", "LA": "grey", "La": "grey", "I": "grey", "F": "grey", "1": "grey", "P": "palette"}


@dataclass(frozen=True, eq=False)
class Scanned:
    """One readable image.

    Attributes:
        sha256: of the file.
        height, width: as displayed, pixels.
        kind: e.g. `PNG 16-bit grey`.
        thumbnail_SS: uint8, grey.
        bits_used: bits of the brightest value of a 16-bit picture; None for others.
        notes: on the window of a DICOM file.
    """

    sha256: str
    height: int
    width: int
    kind: str
    thumbnail_SS: np.ndarray
    bits_used: int | None = None
    notes: tuple[Note, ...] = ()


def scan(paths: Sequence[Path], *, workers: int, title: str) -> Iterator[Scanned | InputError]:
    """Yield each file as scanned, or why it cannot be read, in order.

    Args:
        paths: N files.
        workers: threads that decode.
        title: of the progress bar.
    """
    with warnings.catch_warnings():  # about files that are listed anyway
        warnings.simplefilter("ignore")
        yield from mapped(_scan_one, paths, workers=workers, total=len(paths), title=title)


def _scan_one(path: Path) -> Scanned | InputError:
    try:
        small = resize_file(path, THUMBNAIL_PX)
        digest = _sha256(path)
        kind = kind_of(path)
        bits_used = _bits_used(path) if " 16-bit grey" in kind and not kind.startswith("DICOM") else None
    except InputError as error:
        return error
    except OSError as error:
        return InputError(f"{path}: cannot be read ({error.strerror or error}); check the file")
    thumbnail_SS = small.pixels_CSS.mean(axis=0).round().astype(np.uint8)
    return Scanned(digest, small.height, small.width, kind, thumbnail_SS, bits_used, small.notes)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def kind_of(path: Path) -> str:
    """Return format, bits per channel and colour of an image file that can be decoded."""
    if is_dicom(path):
        header = open_dicom(path, only_header=True)
        colour = str(header.get("PhotometricInterpretation", "")).strip()
        return f"DICOM {header.get('BitsStored', header.get('BitsAllocated', '?'))}-bit {colour}"
    with Image.open(picture_source(path)) as image:
        mode = image.mode
        is_16_bit = mode.startswith("I;16") or (mode == "I" and image.format == "PNG")
        bits = 16 if is_16_bit else _BIT_DEPTHS.get(mode, 8)
        colour = "grey" if mode.startswith("I;16") else _COLOURS.get(mode, mode)
        return f"{image.format} {bits}-bit {colour}"


def _bits_used(path: Path) -> int:
    with Image.open(picture_source(path)) as image:
        return int(np.asarray(image).max()).bit_length()
