"""The reader of image files: 8-bit pixels as a viewer shows them.

Colour profiles and gamma chunks are not applied: stored values are taken for display values.

Letters: H W pixels.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.errors import BytesLengthException, InvalidDicomError

from csr.data.images.dicom import read_dicom
from csr.data.images.dicom_file import is_dicom
from csr.data.images.dicom_grey import Note
from csr.data.images.png_texts import picture_source
from csr.runtime.errors import InputError, TooLargeError
from csr.runtime.file_content import placeholder

MAX_PIXELS = 2**26  # 67 million: above any radiograph or mammogram, below Pillow's own limit
MAX_FILE_BYTES = 2**30
# The formats of medical images: Pillow's other readers are of no use here, and some start programs.
_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP")
_EXIF_ORIENTATION = 0x0112
_TIFF_PHOTOMETRIC = 262
# All that Pillow's and pydicom's readers raise on damaged files: none of it is a bug of csr.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    EOFError,
    MemoryError,
    Warning,
    BytesLengthException,
    InvalidDicomError,
    zlib.error,
    struct.error,
)
# Without a handler Python prints Pillow's complaints about a file, which become one line of csr below.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Pixels as displayed, and the size of the original before any reduction by `min_size`.

    Attributes:
        pixels: uint8 (H, W) grey or (H, W, 3) RGB.
        height, width: of the original as displayed, in pixels.
        notes: on the window of a DICOM file.
    """

    pixels: np.ndarray
    height: int
    width: int
    notes: tuple[Note, ...] = ()


def read_image(path: str | os.PathLike[str], *, min_size: int | None = None) -> np.ndarray:
    """Return the pixels of `decode_image`: uint8 (H, W) for grey files, else (H, W, 3)."""
    return decode_image(path, min_size=min_size).pixels


def decode_image(
    path: str | os.PathLike[str], *, min_size: int | None = None, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """Decode one image file by its content, whatever its suffix.

    16-bit grey is scaled by 1/257; transparency is put on black; palettes, CMYK and bilevel are converted;
    the EXIF orientation is applied; for DICOM see `csr.data.images.dicom_grey`.

    Args:
        path: PNG, JPEG, DICOM, also TIFF, BMP, GIF, WebP and JPEG 2000 under another suffix.
        min_size: a JPEG may be decoded at a half, quarter or eighth of its size (much faster) if both sides
            keep this many pixels; None decodes in full.
        max_pixels: an image of more is refused before it is decoded.

    Raises:
        InputError: damaged, no image, animated or multi-page, floating point; with the file, the reason and
            the fix. A TooLargeError for too many pixels.
    """
    with refused_if_unreadable(path):
        if is_dicom(path):
            pixels, notes = read_dicom(path, max_pixels=max_pixels)
            height, width = pixels.shape[:2]
            return DecodedImage(pixels, height, width, notes)
        return _decode_picture(path, min_size, max_pixels)


@contextmanager
def refused_if_unreadable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Check a file, and make of all that its readers raise one InputError that names it."""
    try:
        _check_file(path)
        yield
    except InputError:
        raise
    except UnidentifiedImageError:
        what = placeholder(path) or "is no image that can be read (PNG, JPEG, DICOM); export it again"
        raise InputError(f"{path}: {what}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLargeError(f"{path}: has far too many pixels for a radiograph; scale it down") from None
    except DECODE_ERRORS as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: is damaged or not supported ({reason}); export it again") from None


def _check_file(path: str | os.PathLike[str]) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file; give an image")
    if not status.st_size:
        raise InputError(f"{path}: the file is empty; copy it again")
    if status.st_size > MAX_FILE_BYTES:
        raise InputError(f"{path}: is larger than 1 GiB; give one image and not a series")


def _decode_picture(path: str | os.PathLike[str], min_size: int | None, max_pixels: int) -> DecodedImage:
    with open_picture(path, max_pixels=max_pixels) as picture:
        width, height = picture.size
        reduced = min_size is not None and picture.draft(None, (min_size, min_size)) is not None
        turned = picture.getexif().get(_EXIF_ORIENTATION)
        pixels = to_uint8(path, upright(picture), picture)
        if not reduced:
            height, width = pixels.shape[:2]
        elif turned in range(5, 9):
            height, width = width, height
        return DecodedImage(pixels, height, width)


@contextmanager
def open_picture(path: str | os.PathLike[str], *, max_pixels: int) -> Iterator[Image.Image]:
    """Open a file that is no DICOM, of one frame and not too many pixels; nothing is decoded yet."""
    with Image.open(picture_source(path), formats=_FORMATS) as picture:
        check_pixels(path, *picture.size, limit=max_pixels)
        # The second picture of a JPEG (MPO) is a preview; in other formats it may be the one that is wanted.
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            raise InputError(f"{path}: has several frames or pages; export the one that is meant")
        yield picture


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture turned as its EXIF orientation says."""
    turned = picture.getexif().get(_EXIF_ORIENTATION)
    return ImageOps.exif_transpose(picture) if turned in range(2, 9) else picture


def to_uint8(path: str | os.PathLike[str], shown: Image.Image, opened: Image.Image) -> np.ndarray:
    """Return the displayed pixels, (H, W) or (H, W, 3), of `shown`, which comes from the file `opened`."""
    mode = shown.mode
    if has_16_bits(shown, opened):
        # 65535 / 255 = 257 exactly, so this is round(value / 257).
        return ((values_of_16_bits(shown, opened).astype(np.uint32) + 128) // 257).astype(np.uint8)
    if mode in ("F", "I"):
        raise InputError(
            f"{path}: has floating-point or 32-bit pixels, which have no fixed display range; "
            "export it with 8 or 16 bits"
        )
    is_grey = mode in ("1", "L", "LA", "La")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in shown.info:
        above = shown.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", above.size, (0, 0, 0, 255)), above)
    return np.array(shown.convert("RGB").getchannel(0) if is_grey else shown.convert("RGB"))


def has_16_bits(shown: Image.Image, opened: Image.Image) -> bool:
    """Return whether a picture is grey of 16 bits."""
    return shown.mode.startswith("I;16") or (shown.mode == "I" and opened.format == "PNG")


def values_of_16_bits(shown: Image.Image, opened: Image.Image) -> np.ndarray:
    """Return 16-bit grey values, uint16 (H, W), dark ones low; transparent pixels are 0."""
    value = np.asarray(shown).astype(np.uint16)
    if opened.format == "TIFF" and opened.getexif().get(_TIFF_PHOTOMETRIC) == 0:
        value = 65535 - value  # 'white is zero', which Pillow inverts for 8 bits only
    if isinstance(shown.info.get("transparency"), int):
        value[value == shown.info["transparency"]] = 0
    return value


def check_pixels(path: str | os.PathLike[str], width: int, height: int, *, limit: int) -> None:
    """Raise a TooLargeError for sizes in pixels that could exhaust the machine's memory."""
    if width < 1 or height < 1 or width * height > limit:
        raise TooLargeError(
            f"{path}: {width} x {height} pixels, allowed are 1 to {limit // 10**6} million; scale it down"
        )
