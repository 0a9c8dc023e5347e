"""Image files made by hand: what libraries do not write, and headers that lie."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (24, 20), dtype=np.uint8)
RGB = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)
RAMP = np.linspace(0, 4095, 480).astype(np.uint16).reshape(24, 20)


def saved(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of a file of that kind."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    picture.save(out, format=kind, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int,
    height: int,
    *,
    bits: int = 8,
    colour: int = 0,
    rows: bytes = b"",
    extra: bytes = b"",
    interlace: int = 0,
) -> bytes:
    """Return a PNG whose header claims any size."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    parts = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def huge_gif() -> bytes:
    """Return a GIF of 65,535 x 65,535 pixels, of which one is there."""
    head = b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return head + b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0\x3b"


def dicom(pixels: np.ndarray = RAMP, *, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """Return a DICOM file; None takes an element out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset("a.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    bits = pixels.dtype.itemsize * 8
    values: dict[str, Any] = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "BitsAllocated": bits,
        "BitsStored": 12 if bits == 16 else bits,
        "HighBit": (12 if bits == 16 else bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **elements,
    }
    if pixels.ndim == 3:
        values.setdefault("PlanarConfiguration", 0)
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=False)
    return out.getvalue()


def nested(depth: int) -> list[Dataset]:
    """Return a sequence within a sequence within.."""
    inner: list[Dataset] = []
    for _ in range(depth):
        item = Dataset()
        item.add_new(0x0040A730, "SQ", inner)
        inner = [item]
    return inner
