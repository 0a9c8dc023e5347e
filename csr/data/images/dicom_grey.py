"""Grey DICOM pixels as a viewer shows them: modality LUT, VOI LUT or window, inversion, padding.

Modality LUT or rescale, then VOI LUT or the first window of the file; inverted for MONOCHROME1 or a
PresentationLUTShape of INVERSE (once, if both are there); padding is black at the end, as air is.

A file without a window is stretched from its darkest to its brightest pixel (padding omitted), as viewers
do. So is one whose window cannot be used, or shows all of its pixels as one grey. A window that clips most
pixels, but not all, is applied as the file says. No window is ever made up: a CT window on a radiograph would
show nothing.

Letters: H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi

from csr.data.images.windows import UnusableWindow, numbers_of, window_of

UNUSABLE, BESIDE, CLIPPING = "unusable", "beside", "clipping"
CLIPPED = 0.95  # share of the pixels that are black or white; a window that clips more gets a note
_LINES = {
    UNUSABLE: "its window is none ({}); shown from its darkest to its brightest pixel",
    BESIDE: "its window lies beside its pixels ({}); shown from the darkest to the brightest of them",
    CLIPPING: "its window clips nearly all pixels ({}), and is applied as the file says",
}
_PADDING = {
    "f4": ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    "f8": ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}


@dataclass(frozen=True)
class Note:
    """What is odd about the window of an image.

    Attributes:
        kind: `UNUSABLE` or `BESIDE` (stretched instead), or `CLIPPING` (applied).
        detail: with numbers.
        maker: the device's manufacturer, '' if the file does not say.
    """

    kind: str
    detail: str
    maker: str = ""

    @property
    def line(self) -> str:
        """What is odd, and what is shown."""
        return _LINES[self.kind].format(self.detail)


def show_grey(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, tuple[Note, ...]]:
    """Return pixels as displayed, uint8 (H, W), and notes on the file's window.

    Args:
        stored: integers or floats, (H, W).
        dataset: the file's header with LUTs, windows and padding.

    Raises:
        ValueError, ...: a LUT or rescale that makes no sense.
    """
    for name in ("RescaleSlope", "RescaleIntercept"):
        numbers_of(dataset, name)  # names the element that is no number
    value = apply_modality_lut(stored, dataset)
    padding = padding_mask(stored, dataset)
    inverted = is_inverted(dataset)
    maker = " ".join(str(dataset.get("Manufacturer") or "").split())[:40]
    notes: list[Note] = []
    shown, name = None, ""
    try:
        name, voi = voi_of(dataset)
        shown = None if voi is None else to_uint8(voi(value))
    except UnusableWindow as error:
        notes.append(Note(UNUSABLE, str(error), maker))
    low, high = np.float32(0), np.float32(0)
    kind, share = (None, "") if shown is None else _clipping(shown, padding, inverted)
    if shown is None or kind is not None:
        low, high = _ends(value, padding)
    if kind == CLIPPING or (kind == BESIDE and low < high):
        notes.append(Note(kind, f"{share}{name}, pixels {low:g} to {high:g}", maker))
    if shown is None or (kind == BESIDE and low < high):
        shown = to_uint8((value.astype(np.float32) - low) / max(high - low, np.float32(1e-6)))
    if inverted:
        shown = 255 - shown
    if padding is not None:
        shown[padding] = 0
    return shown, tuple(notes)


def voi_of(dataset: Dataset) -> tuple[str, Callable[[np.ndarray], np.ndarray] | None]:
    """Return the file's VOI LUT, or else its first window, as a function to [0, 1] with its name; or None.

    Raises:
        UnusableWindow: there are window elements that are no window.
        ValueError, ...: a table that makes no sense.
    """
    if not dataset.get("VOILUTSequence"):
        window = window_of(dataset)
        return ("", None) if window is None else (window.name, window)
    entries, first, bits = (int(v) for v in dataset.VOILUTSequence[0].LUTDescriptor)
    # Some files declare 16 bits for a table of 12: the highest entry of the table is white then.
    reached = int(apply_voi(np.arange(first, first + (entries or 2**16)), dataset).max())
    bits = min(bits, max(reached.bit_length(), 8))
    return "VOI LUT", lambda value: apply_voi(value, dataset) / np.float32(2**bits - 1)


def is_inverted(dataset: Dataset) -> bool:
    """Return whether the darkest value is shown white: MONOCHROME1, or presentation LUT INVERSE, or both."""
    kind, shape = (dataset.get(name) for name in ("PhotometricInterpretation", "PresentationLUTShape"))
    # PS3.3 C.8.11.3: INVERSE is how a MONOCHROME1 image says the same again, and not a second inversion.
    return str(kind) == "MONOCHROME1" or str(shape or "").strip().upper() == "INVERSE"


def padding_mask(stored: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Return which pixels are padding, bool (H, W), or None if none is (PS3.3 C.7.5.1.1.2).

    Padding has the padding value, or lies between it and the range limit, in either order. Both are compared
    in the pixels' own type: -2000 may be written as the unsigned 63536.
    """
    names = _PADDING.get(stored.dtype.str[1:], ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    bits = int(dataset.get("BitsStored") or 8 * stored.dtype.itemsize)
    value, limit = (numbers_of(dataset, name)[:1] for name in names)
    if not value:
        return None
    ends = [_as_stored(number, stored.dtype, bits) for number in value + limit]
    mask = (stored >= min(ends)) & (stored <= max(ends))
    return mask if mask.any() else None


def _as_stored(number: float, dtype: np.dtype, bits: int) -> float:
    """Return a padding value as pixels of this type hold it."""
    if dtype.kind not in "iu":
        return number
    value, allocated = int(number), 8 * dtype.itemsize

    def turned(width: int) -> int:
        low = -(2 ** (width - 1)) if dtype.kind == "i" else 0
        return (value - low) % 2**width + low

    # The pattern of the stored bits alone, where the value cannot be meant otherwise.
    is_pattern = 0 <= value < 2**bits and dtype.kind == "i" and value >= 2 ** (bits - 1)
    return turned(bits if is_pattern else allocated)


def _ends(value: np.ndarray, padding: np.ndarray | None) -> tuple[np.float32, np.float32]:
    """Return the least and the greatest finite value outside of the padding; 0 and 0 if there is none."""
    seen = value if padding is None else value[~padding]
    if seen.size and not np.isfinite([seen.min(), seen.max()]).all():
        seen = seen[np.isfinite(seen)]
    return (np.float32(seen.min()), np.float32(seen.max())) if seen.size else (np.float32(0), np.float32(0))


def _clipping(shown: np.ndarray, padding: np.ndarray | None, inverted: bool) -> tuple[str | None, str]:
    """Return the kind of note that windowed pixels deserve, if any, and the shares that are clipped."""
    seen = shown if padding is None else shown[~padding]
    if not seen.size:
        return None, ""
    low, high = (int(np.count_nonzero(seen == level)) / seen.size for level in (0, 255))
    black, white = (high, low) if inverted else (low, high)
    share = ", ".join(f"{part:.1%} {name}" for part, name in ((white, "white"), (black, "black")) if part)
    share = f"{share} by " if share else ""
    if seen.min() == seen.max():
        return BESIDE, share
    return (CLIPPING if low + high > CLIPPED else None), share


def to_uint8(value: np.ndarray) -> np.ndarray:
    """Return shares of white in [0, 1] as grey levels; what lies outside is clipped, NaN is black."""
    return np.rint(np.clip(np.nan_to_num(value), 0, 1) * 255).astype(np.uint8)
