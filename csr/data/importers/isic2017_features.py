"""Dermoscopic features of one ISIC 2017 lesion: those that are present, and boxes around their regions.

Letters: H W pixels, S superpixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from csr.data.images.decode import MAX_PIXELS, upright
from csr.data.importers.boxes import Box
from csr.data.importers.raw import read_json
from csr.data.labels.names import show
from csr.runtime.errors import InputError

FEATURES = ("pigment_network", "negative_network", "milia_like_cyst", "streaks")
_CORNERS_TOUCH = np.ones((3, 3), dtype=bool)


class Lesion(NamedTuple):
    """Features that are present, and boxes around the connected regions of each."""

    present: frozenset[str]
    boxes: list[tuple[str, Box]]


def read_lesion(image: Path, *, superpixels: Path, features: Path) -> Lesion:
    """Return the features of one image.

    Args:
        image: the lesion, JPEG. Boxes are in its pixels as it is shown, by its EXIF orientation.
        superpixels: PNG of its size; a pixel's superpixel is red + 256 green + 65536 blue.
        features: JSON, for each feature a list with 0 or 1 for each superpixel.

    Raises:
        InputError: a file is not as published, or the three do not belong together.
    """
    has_S = _read_features(features)
    present = frozenset(name for name, row in has_S.items() if row.any())
    size, turned = _size(image)
    if not present:
        return Lesion(present, [])
    index_HW = _read_superpixels(superpixels, size, turned)
    num_superpixels = int(index_HW.max()) + 1
    lengths = {len(row) for row in has_S.values()}
    if lengths != {num_superpixels}:
        raise InputError(
            f"{features}: lists {', '.join(map(str, sorted(lengths)))} superpixels, but {superpixels} has "
            f"{num_superpixels}; download both again"
        )
    boxes = [(name, box) for name in FEATURES if name in present for box in regions(has_S[name][index_HW])]
    return Lesion(present, boxes)


def regions(mask_HW: np.ndarray) -> list[Box]:
    """Return boxes around the connected regions of a bool mask; pixels that share a corner are connected."""
    from scipy import ndimage  # half a second: not for a help text

    labelled_HW, _ = ndimage.label(mask_HW, structure=_CORNERS_TOUCH)
    return [
        Box(columns.start, rows.start, columns.stop, rows.stop)
        for rows, columns in ndimage.find_objects(labelled_HW)
    ]


def _read_features(path: Path) -> dict[str, np.ndarray]:
    features: Any = read_json(path)
    if not isinstance(features, dict) or sorted(features) != sorted(FEATURES):
        names = ", ".join(map(str, features)) if isinstance(features, dict) else type(features).__name__
        wanted = ", ".join(FEATURES)
        raise InputError(f"{path}: has {show(names)}, the published file has {wanted}; download it again")
    has_S = {}
    for name in FEATURES:
        values = features[name]
        if not isinstance(values, list) or not all(type(v) in (int, float) and v in (0, 1) for v in values):
            raise InputError(f"{path}: {name} is not a list of 0 and 1; download it again")
        has_S[name] = np.asarray(values, dtype=bool)
    return has_S


def _size(path: Path) -> tuple[tuple[int, int], int]:
    """Return width and height in pixels as stored, and the EXIF orientation, 1 for upright."""
    with _open(path, "JPEG") as image:
        return image.size, image.getexif().get(ExifTags.Base.Orientation, 1)


def _read_superpixels(path: Path, size: tuple[int, int], turned: int) -> np.ndarray:
    """Return the superpixel of each pixel, int64 (H, W), turned as the lesion is when it is shown."""
    with _open(path, "PNG") as image:
        if image.size != size or image.mode != "RGB":
            raise InputError(
                f"{path}: {image.width} x {image.height} {image.mode}, its lesion is {size[0]} x {size[1]} "
                "and superpixels are RGB; download both again"
            )
        try:
            image.getexif()[ExifTags.Base.Orientation] = turned
            rgb_HW3 = np.asarray(upright(image)).astype(np.int64)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path}: is damaged ({str(error)[:80]}); download it again") from None
    return rgb_HW3[..., 0] + (rgb_HW3[..., 1] << 8) + (rgb_HW3[..., 2] << 16)


def _open(path: Path, kind: str) -> Image.Image:
    try:
        image = Image.open(path, formats=(kind,))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
        raise InputError(f"{path}: is no {kind} that can be read; download it again") from None
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{path}: {image.width} x {image.height} pixels; the published image is smaller")
    return image
