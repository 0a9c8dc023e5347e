"""Decoding of uploaded bytes, by the same code as for files, and without writing them to a disk.

The bytes are lent to the readers as an anonymous file in memory (memfd), which has no name that an upload
could choose and which is gone when it is closed.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from csr.data.images.decode import decode_image
from csr.data.images.resize import resize_file
from csr.data.images.square import SQUASH, WHOLE, Frame
from csr.report.pictures import png_bytes
from csr.runtime.errors import InputError, TooLargeError
from csr.serve.limits import MAX_NAME

VIEW_PX = 1400  # longest side of what the page shows


@dataclass(frozen=True, eq=False)
class Upload:
    """An image that was sent.

    Attributes:
        name: the sender's name of it; shown, never used as a path.
        sha256: of the file's bytes.
        num_bytes: of the file.
        height, width: of the image as displayed, pixels.
        pixels_CSS: uint8 (C, S, S), resized as for `csr explain`.
        frame: the square that they show, as fractions of the image (`csr.data.images.square`).
        view: PNG of at most `VIEW_PX` pixels a side.
    """

    name: str
    sha256: str
    num_bytes: int
    height: int
    width: int
    pixels_CSS: np.ndarray
    view: bytes
    frame: Frame = WHOLE


def read_upload(data: bytes, *, name: str, size: int, max_pixels: int, resize: str = SQUASH) -> Upload:
    """Decode an image.

    Args:
        data: bytes of an untrusted file.
        name: see `Upload`.
        size: side S to resize to, the model's `stored_size`.
        max_pixels: larger images are refused before they are decoded.
        resize: how the image becomes square, the model's.

    Returns:
        The image, as shown and as the network takes it.

    Raises:
        TooLargeError: too many pixels.
        InputError: no image, damaged, or not supported; the message names no path.
    """
    with in_memory(data) as path:
        try:
            shown = decode_image(path, min_size=VIEW_PX, max_pixels=max_pixels)
            resized = resize_file(path, size, resize=resize)
        except TooLargeError:
            raise TooLargeError(f"the image has more than {max_pixels} pixels; scale it down") from None
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ").replace(str(path), "the image")
            raise InputError(f"the file {reason.removeprefix('the file ')}") from None
    return Upload(
        name=shown_name(name),
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        height=resized.height,
        width=resized.width,
        pixels_CSS=resized.pixels_CSS,
        view=view_png(shown.pixels),
        frame=resized.frame,
    )


@contextmanager
def in_memory(data: bytes) -> Iterator[Path]:
    """Yield a path under which this process, and no other user, can read the bytes until the context ends."""
    file = os.memfd_create("csr-upload", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(data)
        yield Path(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def view_png(pixels: np.ndarray) -> bytes:
    """Return a PNG for the page, aspect kept, never enlarged.

    Args:
        pixels: uint8, (height, width) or (height, width, 3).
    """
    picture = Image.fromarray(pixels)
    scale = min(1.0, VIEW_PX / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return png_bytes(np.asarray(picture.resize(size, Image.Resampling.BILINEAR)))


def shown_name(name: str) -> str:
    """Return a name as one line of printable text, without characters that turn or hide other text."""
    kept = "".join(c if unicodedata.category(c)[0] not in "CZ" or c == " " else "?" for c in name)
    return kept.strip()[:MAX_NAME] or "image"
