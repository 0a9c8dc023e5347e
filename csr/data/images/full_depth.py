"""Grey values as a file stores them, up to 16 bits, beside how they are displayed: for a viewer's window.

A displayed pixel is a function of its stored value alone, whatever the file asks for (window, VOI LUT,
padding, inversion). So one table over the values holds exactly what `decode_image` shows, and a window that a
reader chooses is another table over the same values.

Letters: H W pixels, N raw numbers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.pixels import apply_modality_lut

from csr.data.images.decode import (
    MAX_PIXELS,
    has_16_bits,
    open_picture,
    refused_if_unreadable,
    to_uint8,
    upright,
    values_of_16_bits,
)
from csr.data.images.dicom import is_grey, read_stored, show_colour
from csr.data.images.dicom_file import is_dicom
from csr.data.images.dicom_grey import CLIPPING, is_inverted, padding_mask, show_grey
from csr.data.images.windows import Kind, UnusableWindow, kind_of, numbers_of, window_of, windows_of

ShownBy = Literal["window", "table", "range"]
LINEAR_EXACT: Kind = "LINEAR_EXACT"
_LEVELS = 2**16
_LARGEST = 1e12  # of a value: beyond, a float in between has no decimals left
_MAX_WINDOWS = 16


@dataclass(frozen=True)
class NamedWindow:
    """A window, `centre` and `width` in units of the values."""

    name: str
    centre: float
    width: float


@dataclass(frozen=True, eq=False)
class FullDepth:
    """An image in full.

    Attributes:
        raw: uint8 or uint16 (H, W), or uint8 (H, W, 3) in colour.
        slope, intercept: value = slope x raw + intercept, in the units of windows: what the file stores,
            rescaled.
        shown_N: uint8, the grey level of every raw number as `decode_image` shows it.
        low, high: least and greatest value outside of the padding.
        function: LINEAR, LINEAR_EXACT or SIGMOID (PS3.3 C.11.2.1), of windows.
        inverted: the least value is white.
        padding: first and last raw number that is padding, shown black; None without any.
        shown_by: what displays the pixels: `window`, `table` (a VOI LUT) or `range` (darkest to brightest).
        window: that of the displayed pixels; None for a table.
        windows: all of the file.
        unit: of the values, '' if the file names none.
        is_exact: False where more than 16 bits were rounded to 65536 levels.
    """

    raw: np.ndarray
    slope: float
    intercept: float
    shown_N: np.ndarray
    low: float
    high: float
    function: Kind = LINEAR_EXACT
    inverted: bool = False
    padding: tuple[int, int] | None = None
    shown_by: ShownBy = "range"
    window: NamedWindow | None = None
    windows: tuple[NamedWindow, ...] = ()
    unit: str = ""
    is_exact: bool = True


def decode_full_depth(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> FullDepth:
    """Decode one image file, see `csr.data.images.decode.decode_image`, and keep the depth of grey ones.

    Args:
        path: the file.
        max_pixels: an image of more is refused before it is decoded.

    Raises:
        InputError: see `decode_image`. A TooLargeError for too many pixels.
    """
    with refused_if_unreadable(path):
        if is_dicom(path):
            dataset, stored = read_stored(path, max_pixels=max_pixels)
            if is_grey(stored, dataset):
                return _of_grey_dicom(stored, dataset)
            return _of_8_bits(show_colour(path, stored, dataset))
        with open_picture(path, max_pixels=max_pixels) as picture:
            shown = upright(picture)
            if has_16_bits(shown, picture):
                return _of_16_bits(values_of_16_bits(shown, picture))
            return _of_8_bits(to_uint8(path, shown, picture))


def full_range(low: float, high: float, function: str, name: str) -> NamedWindow:
    """Return the window from one value to another, in the terms of a function."""
    extra = 1.0 if function == "LINEAR" else 0.0  # PS3.3 C.11.2.1.2.1: black ends half a step lower
    return NamedWindow(name, (low + high + extra) / 2, max(high - low, 1e-6) + extra)


def _of_8_bits(pixels: np.ndarray) -> FullDepth:
    window = full_range(0, 255, LINEAR_EXACT, "")
    low, high = float(pixels.min()), float(pixels.max())
    return FullDepth(pixels, 1.0, 0.0, np.arange(256, dtype=np.uint8), low, high, window=window)


def _of_16_bits(value_HW: np.ndarray) -> FullDepth:
    shown_N = ((np.arange(_LEVELS) + 128) // 257).astype(np.uint8)
    window = full_range(0, _LEVELS - 1, LINEAR_EXACT, "")
    return FullDepth(value_HW, 1.0, 0.0, shown_N, float(value_HW.min()), float(value_HW.max()), window=window)


def _of_grey_dicom(stored: np.ndarray, dataset: FileDataset) -> FullDepth:
    shown, notes = show_grey(stored, dataset)
    mask = padding_mask(stored, dataset)
    number, slope, intercept = _rescaled(stored, dataset)
    raw, slope, intercept, is_exact = _counted(number, slope, intercept)
    seen = raw if mask is None or mask.all() else raw[~mask]
    low, high = sorted(slope * float(end) + intercept for end in (seen.min(), seen.max()))
    try:
        function: Kind = kind_of(dataset)
    except UnusableWindow:
        function = "LINEAR"
    is_stretched = any(note.kind != CLIPPING for note in notes)
    own = None if is_stretched or dataset.get("VOILUTSequence") else window_of(dataset)
    has_table = bool(dataset.get("VOILUTSequence")) and not is_stretched
    shown_by: ShownBy = "table" if has_table else "range" if own is None else "window"
    window = NamedWindow("", own.centre, own.width) if own else full_range(low, high, function, "")
    return FullDepth(
        raw,
        slope,
        intercept,
        _table(raw, shown, mask),
        low,
        high,
        function=function,
        inverted=is_inverted(dataset),
        padding=_padding_range(raw, mask),
        shown_by=shown_by,
        window=None if has_table else window,
        windows=tuple(
            NamedWindow(text, one.centre, one.width)
            for one, text in windows_of(dataset)[:_MAX_WINDOWS]
            if abs(one.centre) < _LARGEST and one.width < _LARGEST
        ),
        unit=str(dataset.get("RescaleType") or ""),
        is_exact=is_exact,
    )


def _rescaled(stored: np.ndarray, dataset: FileDataset) -> tuple[np.ndarray, float, float]:
    """Return numbers with the slope and the intercept that make values of them."""
    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset), 1.0, 0.0
    scale = [numbers_of(dataset, name)[:1] for name in ("RescaleSlope", "RescaleIntercept")]
    if not all(scale):
        return stored, 1.0, 0.0
    (slope,), (intercept,) = scale
    usable = np.isfinite([slope, intercept]).all() and 1 / _LARGEST < abs(slope) < _LARGEST
    return (stored, slope, intercept) if usable and abs(intercept) < _LARGEST else (stored, 1.0, 0.0)


def _counted(number: np.ndarray, slope: float, intercept: float) -> tuple[np.ndarray, float, float, bool]:
    """Return numbers from 0 in 8 or 16 bits, slope and intercept of their values, and if exact."""
    if number.dtype.kind in "iub":
        low, high = int(number.min()), int(number.max())
        if high - low < _LEVELS:
            raw = number.astype(np.int64) - low
            return (
                raw.astype(np.uint8 if high - low < 256 else np.uint16),
                slope,
                intercept + slope * low,
                True,
            )
    real = np.nan_to_num(number.astype(np.float64), nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
    real = real.clip(-_LARGEST, _LARGEST)
    finite = real[np.isfinite(number)]
    least, greatest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    step = max(greatest - least, 1e-6) / (_LEVELS - 1)
    raw = np.rint((real.clip(least, greatest) - least) / step).astype(np.uint16)
    return raw, slope * step, intercept + slope * least, False


def _table(raw: np.ndarray, shown: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the grey level of every raw number; those that no pixel has lie between their neighbours."""
    size = int(raw.max()) + 1
    table_N, has_N = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=bool)
    table_N[raw.ravel()], has_N[raw.ravel()] = shown.ravel(), True
    if mask is not None and not mask.all():  # a value that padding shares with others is theirs
        table_N[raw[~mask]] = shown[~mask]
    known = np.flatnonzero(has_N)
    return np.rint(np.interp(np.arange(size), known, table_N[known])).astype(np.uint8)


def _padding_range(raw: np.ndarray, mask: np.ndarray | None) -> tuple[int, int] | None:
    if mask is None or mask.all():
        return None
    first, last = int(raw[mask].min()), int(raw[mask].max())
    seen = raw[~mask]
    return None if ((seen >= first) & (seen <= last)).any() else (first, last)
