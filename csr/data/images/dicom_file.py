"""The opening of DICOM files: what is one, its header, its stored values, and where a download stopped.

Read as viewers do, files may lack the preamble, the file meta information or the transfer syntax. Then
uncompressed pixels are taken as the bytes of the header show; a compression is never guessed.
"""

from __future__ import annotations

import os
import struct

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import FileDataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from csr.data.images.dicom_cut import no_pixels, strict_plugin, too_few_bytes, undecoded
from csr.runtime.errors import InputError

_START_BYTES = 1024
_ENOUGH_TAGS = 3  # known ones, ascending: no other kind of file was seen to begin so
_GROUPS = range(0x0002, 0x0029)  # file meta to image pixel
_VRS = {vr.value.encode() for vr in VR if len(vr.value) == 2}
_LONG_VRS = {vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32}
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Their codestream holds depth and sign, and pydicom corrects the values by it.
_SELF_DESCRIBING = {*JPEG2000TransferSyntaxes, *JPEGLSTransferSyntaxes}


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is DICOM: with its preamble, or a bare data set in little endian."""
    with open(path, "rb") as file:
        start = file.read(_START_BYTES)
    return _has_preamble(start) or _begins_as_data_set(start)


def _has_preamble(start: bytes) -> bool:
    return start[128:132] == b"DICM"


def _begins_as_data_set(start: bytes) -> bool:
    """Return whether bytes begin with ascending tags of the DICOM dictionary, explicit or implicit VR."""
    place, last, count = 0, 0, 0
    while place + 12 <= len(start) and count < _ENOUGH_TAGS:
        group, element, vr, short = struct.unpack_from("<HH2sH", start, place)
        tag, header = group << 16 | element, 8
        if vr in _LONG_VRS:
            header, length = 12, struct.unpack_from("<I", start, place + 8)[0]
        else:
            length = short if vr in _VRS else struct.unpack_from("<I", start, place + 4)[0]
        if group not in _GROUPS or tag <= last or not (element == 0 or dictionary_has_tag(tag)):
            return False
        last, count, place = tag, count + 1, place + header + length
    return count >= 2  # a long value reaches beyond the start


def open_dicom(path: str | os.PathLike[str], *, only_header: bool = False) -> FileDataset:
    """Return the data set of a file for which `is_dicom` holds, with a transfer syntax in its file meta.

    Args:
        path: the file.
        only_header: stop before the pixels.

    Raises:
        InputError: deflated, or compressed pixels without a transfer syntax.
        ValueError, RuntimeError, ...: as pydicom raises them on damaged files.
    """
    # Inflating a deflated file cannot be bounded from outside of pydicom, and they are rare.
    if _stated_syntax(path) == DeflatedExplicitVRLittleEndian:
        raise InputError(f"{path}: is a deflated DICOM file; convert it, e.g. with dcmconv +te")
    dataset = dcmread(path, force=True, stop_before_pixels=only_header)
    if dataset.file_meta.get("TransferSyntaxUID"):
        return dataset
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise InputError(
            f"{path}: has compressed pixels and no TransferSyntaxUID that names the compression; "
            "export it again from its source"
        )
    implicit, little = dataset.original_encoding
    plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
    return dataset


def _stated_syntax(path: str | os.PathLike[str]) -> str | None:
    with open(path, "rb") as file:
        if not _has_preamble(file.read(132)):
            file.seek(0)
            meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
            return meta.get("TransferSyntaxUID")
    return read_file_meta_info(path).get("TransferSyntaxUID")


def check_has_pixels(path: str | os.PathLike[str], dataset: FileDataset) -> None:
    """Raise an InputError if a data set holds no pixels, with what is known of where the file stopped."""
    if not any(name in dataset for name in _PIXELS):
        raise no_pixels(path, dataset)


def stored_values(path: str | os.PathLike[str], dataset: FileDataset) -> np.ndarray:
    """Return the stored values, (H, W) or (H, W, channels), without foreign bits (overlays).

    Raises:
        InputError: the pixels are cut, or cannot be decompressed.
        ValueError, RuntimeError, ...: as pydicom raises them on damaged files.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = strict_plugin(path, dataset) if syntax.is_compressed else ""
    try:
        stored = pixel_array(dataset, decoding_plugin=plugin)
    except ValueError:
        short = None if syntax.is_compressed else too_few_bytes(path, dataset)
        if short is None:
            raise
        raise short from None
    except (RuntimeError, NotImplementedError) as error:
        if not syntax.is_compressed:
            raise
        raise undecoded(path, dataset, error) from None
    if syntax in _SELF_DESCRIBING or stored.dtype.kind not in "iu":
        return stored
    return _without_foreign_bits(path, stored, dataset)


def _without_foreign_bits(
    path: str | os.PathLike[str], stored: np.ndarray, dataset: FileDataset
) -> np.ndarray:
    allocated = stored.dtype.itemsize * 8
    bits = int(dataset.get("BitsStored") or allocated)
    top = int(dataset.get("HighBit", bits - 1)) + 1
    if bits >= allocated:
        return stored
    if not 0 < bits <= top <= allocated:
        raise InputError(f"{path}: {bits} bits stored below bit {top} of {allocated}; export it again")
    # Old files keep overlays in the unused bits, and signed values without sign extension.
    return (stored << (allocated - top)) >> (allocated - bits)
