"""The reader of DICOM files: 8-bit pixels as a viewer shows them (DICOM PS3.3 C.11.1, C.11.2, C.7.6.3).

Modality LUT or rescale, then VOI LUT or the first window of the file, then MONOCHROME1 inverted. A file
without a window is stretched from its darkest to its brightest pixel (padding omitted), as viewers do. No
window is ever made up: a CT window on a radiograph would show nothing.

Letters: H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from csr.runtime.errors import InputError, TooLargeError

_GREY = ("MONOCHROME1", "MONOCHROME2")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has the preamble of a DICOM file."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: str | os.PathLike[str], *, max_pixels: int) -> np.ndarray:
    """Return the pixels of a file, uint8 (H, W) for MONOCHROME1/2, else (H, W, 3).

    Args:
        path: a file with a DICOM preamble, one frame.
        max_pixels: an image of more is refused before anything is decoded.

    Raises:
        InputError: no pixels, several frames, too many pixels, or a compression without a decoder.
        ValueError, RuntimeError, ...: as pydicom raises them on damaged files.
    """
    # Inflating a deflated file cannot be bounded from outside of pydicom, and they are rare.
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise InputError(f"{path}: is a deflated DICOM file; convert it, e.g. with dcmconv +te")
    dataset = dcmread(path)
    _check_header(path, dataset, max_pixels)
    stored = _decode(path, dataset)
    kind = str(dataset.PhotometricInterpretation)
    if kind in _GREY and stored.ndim == 2:
        value = display_values(stored, dataset)
        return _to_uint8(1.0 - value if kind == "MONOCHROME1" else value)
    if kind == "PALETTE COLOR":
        colour = apply_color_lut(stored, dataset)
        return _to_uint8(colour / np.float32(np.iinfo(colour.dtype).max))
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise InputError(f"{path}: photometric interpretation {kind} is not supported; export as PNG")
    return _to_uint8(stored / np.float32(2 ** int(dataset.BitsStored) - 1))


def _check_header(path: str | os.PathLike[str], dataset: FileDataset, max_pixels: int) -> None:
    if not any(name in dataset for name in _PIXELS):
        raise InputError(f"{path}: this DICOM file has no pixel data; give the file of the image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(f"{path}: has {frames} frames; export the one that is meant")
    samples, bits = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated)
    if samples not in (1, 3) or bits not in (1, 8, 16, 32, 64):
        raise InputError(
            f"{path}: is damaged or not supported ({samples} samples of {bits} bits in a pixel); "
            "export it again"
        )
    height, width = int(dataset.Rows), int(dataset.Columns)
    if not 0 < height * width <= max_pixels:
        raise TooLargeError(
            f"{path}: {width} x {height} pixels, allowed are 1 to {max_pixels // 10**6} million; "
            "scale it down"
        )


def _decode(path: str | os.PathLike[str], dataset: FileDataset) -> np.ndarray:
    """Return the stored values, (H, W) or (H, W, channels), without foreign bits (overlays)."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        stored = pixel_array(dataset)
    except (RuntimeError, NotImplementedError) as error:
        if not syntax.is_compressed:
            raise
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: no decoder for {syntax.name} ({reason}); install pylibjpeg with its "
            "plug-ins or convert the file, e.g. with gdcmconv --raw"
        ) from None
    allocated = stored.dtype.itemsize * 8
    bits = int(dataset.get("BitsStored") or allocated)
    top = int(dataset.get("HighBit", bits - 1)) + 1
    if stored.dtype.kind not in "iu" or bits >= allocated:
        return stored
    if not 0 < bits <= top <= allocated:
        raise InputError(f"{path}: {bits} bits stored below bit {top} of {allocated}; export it again")
    # Old files keep overlays in the unused bits, and signed values without sign extension.
    return (stored << (allocated - top)) >> (allocated - bits)


def display_values(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return display values, float32 (H, W) from 0 (darkest) to 1, MONOCHROME1 not yet inverted.

    Args:
        stored: integers or floats, (H, W).
        dataset: the file's header with LUTs, windows and padding value.
    """
    value = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        entries, first, bits = (int(v) for v in dataset.VOILUTSequence[0].LUTDescriptor)
        # Some files declare 16 bits for a table of 12: the highest entry of the table is white then.
        reached = int(apply_voi(np.arange(first, first + (entries or 2**16)), dataset).max())
        bits = min(bits, max(reached.bit_length(), 8))
        return np.clip(apply_voi(value, dataset) / np.float32(2**bits - 1), 0, 1)
    window = window_of(dataset)
    if window is not None:
        return window(value.astype(np.float32))
    value = value.astype(np.float32)
    seen = value[stored != dataset.PixelPaddingValue] if "PixelPaddingValue" in dataset else value
    seen = seen[np.isfinite(seen)]
    low, high = (seen.min(), seen.max()) if seen.size else (np.float32(0), np.float32(0))
    return np.clip((value - low) / max(high - low, np.float32(1e-6)), 0, 1)


def window_of(dataset: Dataset) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the file's first window as a function to [0, 1], or None (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    kind = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if kind == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if kind not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"VOI LUT function {kind}")
    if not np.isfinite([centre, width]).all() or width < 0 or (width == 0 and kind != "LINEAR"):
        raise ValueError("window width must be positive")
    if kind == "SIGMOID":
        return lambda value: 1 / (1 + np.exp(np.clip(-4 * (value - centre) / width, -80, 80)))
    if width == 0:
        return lambda value: (value > centre).astype(np.float32)
    return lambda value: np.clip((value - centre) / width + 0.5, 0, 1)


def _first(value: object) -> float | None:
    """Return the first of one or several decimal strings, None if there is none."""
    if value is None or value == "":
        return None
    several = isinstance(value, (list, tuple)) or hasattr(value, "__getitem__")
    if several and not isinstance(value, (str, float)):
        value = value[0] if len(value) else None  # type: ignore[index,arg-type]
    return None if value is None or value == "" else float(value)  # type: ignore[arg-type]


def _to_uint8(value: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(np.nan_to_num(value), 0, 1) * 255).astype(np.uint8)
