"""The scan of image files: hash of the bytes, size, kind, and a thumbnail that finds near duplicates.

Letters: N images, S side of the thumbnail, F bits of the hash.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from csr.data.images.dicom_file import is_dicom, open_dicom
from csr.data.images.dicom_grey import Note
from csr.data.images.png_texts import picture_source
from csr.data.images.resize import resize_file
from csr.runtime.errors import InputError
from csr.runtime.thread_map import mapped

THUMBNAIL_PX, HASH_PX = 32, 16
# (of 480 bits, correlation of the thumbnails): re-saving, scaling and windowing flip up to 36 bits and leave
# the thumbnail alike; a mark in a corner flips few bits and spoils it. Other images were seen to differ in 47
# and more.
NEAR_LIMITS = ((36, 0.98), (16, 0.6))
MIN_CONTRAST = 1.0  # standard deviation of the thumbnail in grey levels: below there is nothing to compare
_STEP = 0.5  # grey levels that a neighbour must be brighter by
_BLOCK_ENTRIES = 2**24
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


def near_duplicates(thumbnail_NSS: np.ndarray) -> list[tuple[int, int, float]]:
    """Return pairs of images that look the same.

    Hashes of brightness differences find candidates, the correlation of the thumbnails decides.

    Args:
        thumbnail_NSS: uint8.

    Returns:
        (first, second, correlation), first < second. Images without contrast are in no pair.
    """
    flat_NF = thumbnail_NSS.reshape(-1, THUMBNAIL_PX**2).astype(np.float32)
    usable = np.flatnonzero(flat_NF.std(axis=1) >= MIN_CONTRAST)
    if not len(usable):
        return []
    sign_NF = difference_signs(thumbnail_NSS[usable])
    centred_NF = flat_NF[usable] - flat_NF[usable].mean(axis=1, keepdims=True)
    centred_NF /= np.linalg.norm(centred_NF, axis=1, keepdims=True)
    step = max(1, _BLOCK_ENTRIES // max(1, len(usable)))
    pairs = []
    for begin in range(0, len(usable), step):
        rows = slice(begin, begin + step)
        flipped = (sign_NF.shape[1] - sign_NF[rows] @ sign_NF[begin:].T) / 2  # of +-1 vectors
        first, second = np.nonzero(flipped <= max(bits for bits, _ in NEAR_LIMITS))
        flipped, first, second = flipped[first, second], first + begin, second + begin
        alike = np.einsum("nf,nf->n", centred_NF[first], centred_NF[second])
        enough = [(flipped <= bits) & (alike >= correlation) for bits, correlation in NEAR_LIMITS]
        near = (first < second) & np.logical_or.reduce(enough)
        columns = (usable[first[near]], usable[second[near]], alike[near])
        pairs += list(zip(*(column.tolist() for column in columns), strict=True))
    return pairs


def difference_signs(thumbnail_NSS: np.ndarray) -> np.ndarray:
    """Return +1 where the right or the lower neighbour is brighter, else -1 (difference hash, dHash).

    Args:
        thumbnail_NSS: uint8.

    Returns:
        float32 (N, F).
    """
    count, pool = len(thumbnail_NSS), THUMBNAIL_PX // HASH_PX
    small = thumbnail_NSS.reshape(count, HASH_PX, pool, HASH_PX, pool).astype(np.float32).mean(axis=(2, 4))
    across, down = np.diff(small, axis=2) > _STEP, np.diff(small, axis=1) > _STEP
    bits = np.concatenate([across.reshape(count, -1), down.reshape(count, -1)], axis=1)
    return np.where(bits, np.float32(1), np.float32(-1))


def groups_of(pairs: Sequence[tuple[int, int, float]]) -> list[list[int]]:
    """Return images joined by pairs, directly or by way of others; each group and all groups in order."""
    root: dict[int, int] = {}

    def find(place: int) -> int:
        while root.setdefault(place, place) != place:
            root[place] = place = root[root[place]]
        return place

    for first, second, _ in pairs:
        low, high = sorted((find(first), find(second)))
        root[high] = low
    groups: dict[int, list[int]] = {}
    for place in sorted(root):
        groups.setdefault(find(place), []).append(place)
    return list(groups.values())
