"""Why a DICOM file yields no picture: the download stopped, compressed data without an end, no decoder."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit, RLELossless

from csr.runtime.errors import InputError

_UNDEFINED = 0xFFFFFFFF
_JPEG_STARTS = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")  # JPEG and JPEG-LS, J2K codestream, JP2
_JPEG_END = b"\xff\xd9"
_RLE_HEADER = struct.Struct("<16I")
_AGAIN = "fetch it again"


def no_pixels(path: str | os.PathLike[str], dataset: FileDataset) -> InputError:
    """Return the error for a data set without pixels: cut before or inside of them, or no image."""
    expected, syntax = _expected_bytes(dataset), dataset.file_meta.TransferSyntaxUID
    compressed = syntax.is_compressed
    there = _pixel_element(path)
    if there is not None and (compressed or expected is None):
        return InputError(
            f"{path}: the download stopped: {there[0]} bytes of compressed pixels, not their end; {_AGAIN}"
        )
    if there is not None:
        return InputError(f"{path}: the download stopped: {there[0]} of {expected} bytes of pixels; {_AGAIN}")
    of_all = "" if compressed or expected is None else f"0 of {expected} bytes of pixels"
    if _ends_inside_an_element(path):
        where = f"the download stopped: {of_all}" if of_all else "the download stopped in the header"
        return InputError(f"{path}: {where}, or the file is damaged; {_AGAIN}")
    if expected is not None:
        there_are = f" ({of_all})" if of_all else ""
        return InputError(
            f"{path}: this DICOM file has no pixel data{there_are}: the download stopped, or the pixels were "
            f"taken out; {_AGAIN}"
        )
    return InputError(f"{path}: this DICOM file has no pixel data; give the file of the image")


def too_few_bytes(path: str | os.PathLike[str], dataset: FileDataset) -> InputError | None:
    """Return the error for uncompressed pixels that are fewer than rows and columns need, else None."""
    expected, there = _expected_bytes(dataset), _pixel_element(path)
    if expected is None or there is None or there[0] >= expected:
        return None
    present, declared = there
    if declared > present:
        return InputError(f"{path}: the download stopped: {present} of {expected} bytes of pixels; {_AGAIN}")
    return InputError(
        f"{path}: is damaged: it holds {present} of {expected} bytes of pixels; export it again"
    )


def undecoded(path: str | os.PathLike[str], dataset: FileDataset, error: Exception) -> InputError:
    """Return the error for compressed pixels that no decoder took: cut, no decoder, or damaged.

    Args:
        path, dataset: the file.
        error: what pydicom raised.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    frame = _first_frame(dataset)
    if _is_cut(frame, dataset):
        return InputError(
            f"{path}: the pixels ({syntax.name}) are cut: {len(frame)} bytes without their end; the download "
            f"or export stopped; {_AGAIN}"
        )
    reason = " ".join(str(error).split())
    if not _has_decoder(dataset):
        return InputError(
            f"{path}: no decoder for {syntax.name} ({reason[:120]}); install pylibjpeg with its "
            "plug-ins or convert the file, e.g. with gdcmconv --raw"
        )
    reason = reason.removeprefix("Unable to decode as exceptions were raised by all available plugins: ")
    return InputError(
        f"{path}: the pixels ({syntax.name}) are damaged or of a rare kind ({reason[:120]}); fetch the file "
        "again, or convert it, e.g. with gdcmconv --raw"
    )


def _expected_bytes(dataset: Dataset) -> int | None:
    """Return the bytes of the uncompressed pixels of one frame, None if the header does not say."""
    values = [dataset.get(name) for name in ("Rows", "Columns", "BitsAllocated")]
    if not all(isinstance(value, int) and value > 0 for value in values):
        return None
    height, width, bits = values
    samples = dataset.get("SamplesPerPixel") or 1
    if samples == 3 and str(dataset.get("PhotometricInterpretation")) == "YBR_FULL_422":
        samples = 2  # two pixels share their colour
    return (height * width * samples * bits + 7) // 8


def _pixel_element(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return the bytes of pixels in the file and those that its pixel element declares, if it has one."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        header = dcmread(file, force=True, stop_before_pixels=True)
        begin = file.tell()
        start = file.read(12)
    is_implicit, is_little = header.original_encoding
    order, length_at = "<" if is_little else ">", 4 if is_implicit else 8
    if len(start) < length_at + 4 or struct.unpack_from(f"{order}H", start)[0] != 0x7FE0:
        return None
    declared = struct.unpack_from(f"{order}I", start, length_at)[0]
    return size - begin - length_at - 4, declared


def _ends_inside_an_element(path: str | os.PathLike[str]) -> bool:
    """Return whether a file ends within its last element, or within the head of the next one."""
    dataset = dcmread(path, force=True)
    if not len(dataset):
        return True
    last = dataset.get_item(max(dataset.keys()))
    if not isinstance(last, RawDataElement) or last.length == _UNDEFINED:
        return False
    return last.value_tell + last.length != Path(path).stat().st_size


def _first_frame(dataset: Dataset) -> bytes:
    try:
        return get_frame(dataset.PixelData, 0, number_of_frames=1)
    except (ValueError, struct.error, AttributeError):
        return b""  # no fragments of the standard: damaged, and not to be called cut


def _is_cut(frame: bytes, dataset: Dataset) -> bool:
    """Return whether a compressed frame lacks its end."""
    if frame and dataset.file_meta.TransferSyntaxUID == RLELossless:
        return _is_cut_rle(frame, int(dataset.Rows) * int(dataset.Columns))
    return frame.startswith(_JPEG_STARTS) and not frame.rstrip(b"\0").endswith(_JPEG_END)


def _is_cut_rle(frame: bytes, pixels: int) -> bool:
    """Return whether the last segment of a frame ends before all of its bytes are there (PS3.5 annex G)."""
    if len(frame) < _RLE_HEADER.size:
        return True
    count, *offsets = _RLE_HEADER.unpack_from(frame)
    if not 1 <= count <= len(offsets) or offsets[0] != _RLE_HEADER.size:
        return False
    place, decoded = offsets[count - 1], 0
    while decoded < pixels and place < len(frame):
        head = frame[place]
        if head < 128:
            place, decoded = place + 2 + head, decoded + 1 + head
        else:
            place, decoded = place + (2 if head > 128 else 1), decoded + (257 - head if head > 128 else 0)
    return decoded < pixels or place > len(frame)


def _has_decoder(dataset: Dataset) -> bool:
    """Return whether a decoder is there that takes this compression at this depth."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return False
    deep = int(dataset.get("BitsStored") or 8) > 8
    beyond_pillow = deep and (syntax == JPEGExtended12Bit or int(dataset.SamplesPerPixel) > 1)
    return decoder.is_available and not (beyond_pillow and set(decoder.available_plugins) == {"pillow"})
