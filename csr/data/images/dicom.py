"""The reader of DICOM files: 8-bit pixels as a viewer shows them (DICOM PS3.3 C.11.1, C.11.2, C.7.6.3).

Letters: H W pixels.
"""

from __future__ import annotations

import os

import numpy as np
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileDataset
from pydicom.pixels import apply_color_lut

from csr.data.images.dicom_file import check_has_pixels, open_dicom, stored_values
from csr.data.images.dicom_grey import Note, show_grey, to_uint8
from csr.runtime.errors import InputError, TooLargeError

_GREY = ("MONOCHROME1", "MONOCHROME2")


def read_dicom(path: str | os.PathLike[str], *, max_pixels: int) -> tuple[np.ndarray, tuple[Note, ...]]:
    """Return the pixels of a file, uint8 (H, W) for MONOCHROME1/2, else (H, W, 3), and notes on its window.

    Args:
        path: a file for which `csr.data.images.dicom_file.is_dicom` holds, one frame.
        max_pixels: an image of more is refused before anything is decoded.

    Raises:
        InputError: no pixels, several frames, too many pixels, cut, or a compression without a decoder.
        ValueError, RuntimeError, ...: as pydicom raises them on damaged files.
    """
    dataset, stored = read_stored(path, max_pixels=max_pixels)
    if is_grey(stored, dataset):
        return show_grey(stored, dataset)
    return show_colour(path, stored, dataset), ()


def read_stored(path: str | os.PathLike[str], *, max_pixels: int) -> tuple[FileDataset, np.ndarray]:
    """Return the data set of a file and its stored values, (H, W) or (H, W, 3); see `read_dicom`."""
    dataset = open_dicom(path)
    check_has_pixels(path, dataset)
    _check_header(path, dataset, max_pixels)
    _fill_gaps(dataset)
    return dataset, stored_values(path, dataset)


def _fill_gaps(dataset: FileDataset) -> None:
    """Give elements that a writer left empty or out the value that changes nothing.

    PACS exports and anonymisers leave elements of no length, some writers no PixelRepresentation and
    lower-case words; the pixels are sound.
    """
    for name, neutral in (("RescaleSlope", "1"), ("RescaleIntercept", "0")):
        if name in dataset and not _bytes_of(dataset.get_item(name)).strip(b" \0\\"):
            setattr(dataset, name, neutral)
    if "PixelRepresentation" not in dataset:
        dataset.PixelRepresentation = 0
    kind = dataset.get("PhotometricInterpretation")
    if isinstance(kind, str) and kind != kind.upper().strip():
        dataset.PhotometricInterpretation = kind.upper().strip()


def _bytes_of(element: DataElement | RawDataElement) -> bytes:
    value = element.value
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def is_grey(stored: np.ndarray, dataset: FileDataset) -> bool:
    """Return whether stored values are MONOCHROME1 or 2."""
    return str(dataset.PhotometricInterpretation) in _GREY and stored.ndim == 2


def show_colour(path: str | os.PathLike[str], stored: np.ndarray, dataset: FileDataset) -> np.ndarray:
    """Return displayed pixels, uint8 (H, W, 3), of stored values that are not grey."""
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        colour = apply_color_lut(stored, dataset)
        return to_uint8(colour / np.float32(np.iinfo(colour.dtype).max))
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise InputError(f"{path}: photometric interpretation {kind} is not supported; export as PNG")
    return to_uint8(stored / np.float32(2 ** int(dataset.BitsStored) - 1))


def _check_header(path: str | os.PathLike[str], dataset: FileDataset, max_pixels: int) -> None:
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
