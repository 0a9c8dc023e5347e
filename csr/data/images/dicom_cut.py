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
_JPEG_END = b"\xff\xd9"  # occurs in no compressed data
_PADDING_BYTES = 256  # more than any encoder was seen to put behind the end
_PILLOW = "pillow"
_RLE_HEADER = struct.Struct("<16I")
_AGAIN = "fetch it again"


def no_pixels(path: str | os.PathLike[str], dataset: FileDataset) -> InputError:
    """Return the error for a data set without pixels: cut before or inside of them, or no image."""
    expected, syntax = _expected_bytes(dataset), dataset.file_meta.TransferSyntaxUID
    compressed = syntax.is_compressed
    there = _pixel_element(path)
    if there is not None and (compressed or expected is None):
        return InputError(
            f"{path}: is cut, the download stopped: {there[0]} compressed bytes and no end; {_AGAIN}"
        )
    if there is not None:
        return _stopped(path, there[0], expected)
    of_all = "" if compressed or expected is None else f"0 of {expected} bytes of pixels"
    if _ends_inside_an_element(path):
        where = f"stopped: {of_all}" if of_all else "stopped in the header"
        return InputError(f"{path}: is cut or damaged, the download {where}; {_AGAIN}")
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
        return _stopped(path, present, expected)
    return InputError(
        f"{path}: is damaged: it holds {present} of {expected} bytes of pixels; export it again"
    )


def _stopped(path: str | os.PathLike[str], there: int, expected: int | None) -> InputError:
    return InputError(
        f"{path}: is cut, the download stopped: {there} of {expected} bytes of pixels; {_AGAIN}"
    )


def undecoded(path: str | os.PathLike[str], dataset: FileDataset, error: Exception) -> InputError:
    """Return the error for compressed pixels that no decoder took: cut, no decoder, or damaged.

    Args:
        path, dataset: the file.
        error: what pydicom raised.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    frame = _first_frame(dataset)
    if _lacks_end_marker(frame) or (syntax == RLELossless and _is_cut_rle(frame, dataset)):
        return _without_end(path, dataset, frame)
    reason = " ".join(str(error).split())
    if not _has_decoder(dataset):
        return InputError(
            f"{path}: no decoder for {syntax.name} ({reason[:120]}); install pylibjpeg with its "
            "plug-ins or convert the file, e.g. with gdcmconv --raw"
        )
    reason = reason.removeprefix("Unable to decode as exceptions were raised by all available plugins: ")
    return InputError(
        f"{path}: has pixels ({syntax.name}) that are damaged or of a rare kind ({reason[:120]}); fetch the "
        "file again, or convert it, e.g. with gdcmconv --raw"
    )


def strict_plugin(path: str | os.PathLike[str], dataset: FileDataset) -> str:
    """Return the name of pydicom's decoder that has to be used, '' if any will do.

    Some decoders fill what is missing of a JPEG with grey; Pillow refuses it.

    Raises:
        InputError: compressed pixels without their end, and a compression that Pillow does not take.
    """
    frame = _first_frame(dataset)
    if not _lacks_end_marker(frame):
        return ""
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    if _PILLOW in decoder.available_plugins and not _is_beyond_pillow(dataset):
        return _PILLOW
    raise _without_end(path, dataset, frame)


def _without_end(path: str | os.PathLike[str], dataset: FileDataset, frame: bytes) -> InputError:
    return InputError(
        f"{path}: is cut, the download or export stopped: {len(frame)} bytes of pixels "
        f"({dataset.file_meta.TransferSyntaxUID.name}) and no end; {_AGAIN}"
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


def _lacks_end_marker(frame: bytes) -> bool:
    """Return whether a JPEG, JPEG-LS or JPEG 2000 stream ends without the marker that ends it."""
    return frame.startswith(_JPEG_STARTS) and _JPEG_END not in frame[-_PADDING_BYTES:]


def _is_cut_rle(frame: bytes, dataset: Dataset) -> bool:
    """Return whether the last segment of a frame ends before all of its bytes are there (PS3.5 annex G)."""
    pixels = int(dataset.Rows) * int(dataset.Columns)
    if not frame:
        return False
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
    return decoder.is_available and not (
        set(decoder.available_plugins) == {_PILLOW} and _is_beyond_pillow(dataset)
    )


def _is_beyond_pillow(dataset: Dataset) -> bool:
    """Return whether pixels are deeper than Pillow reads in JPEG Extended, or in colour."""
    is_extended = dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    is_deep = int(dataset.get("BitsStored") or 8) > 8
    return is_deep and (is_extended or int(dataset.SamplesPerPixel) > 1)
