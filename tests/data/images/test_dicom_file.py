"""DICOM files that lack a part: read as viewers do, or refused with what is missing."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from importlib.util import find_spec

import numpy as np
import pytest
from hostile_pictures import RAMP, RGB, dicom, saved
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from csr.data.images.collect import gather_images
from csr.data.images.decode import read_image
from csr.data.images.dicom_file import is_dicom
from csr.runtime.errors import InputError
from csr.serve.upload import read_upload

WHOLE = dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", PatientID="a", Manufacturer="Acme")
NUM_BYTES = RAMP.nbytes
SHOWN = np.rint(RAMP / 4095 * 255)


def bare(*, implicit: bool, little: bool = True, content: bytes = WHOLE) -> bytes:
    """Return the data set alone, as pydicom writes it without file meta."""
    plain = Dataset()
    for element in dcmread(io.BytesIO(content)):
        plain.add(element)
    out = io.BytesIO()
    plain.save_as(out, implicit_vr=implicit, little_endian=little)
    return out.getvalue()


def without_syntax(*, little: bool = True, content: bytes = WHOLE) -> bytes:
    """Return the file with a preamble and no transfer syntax."""
    dataset = Dataset()
    for element in dcmread(io.BytesIO(content)):
        dataset.add(element)
    if not little:
        dataset.PixelData = RAMP.astype(">u2").tobytes()
    dataset.file_meta, dataset.preamble = FileMetaDataset(), bytes(128)
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=False, implicit_vr=False, little_endian=little)
    return out.getvalue()


def longer(count: int) -> bytes:
    """Return the file with more bytes of pixels, odd numbers too, which pydicom does not write."""
    at = WHOLE.index(b"\xe0\x7f\x10\x00") + 8
    length = struct.pack("<I", NUM_BYTES + count)
    return WHOLE[:at] + length + WHOLE[at + 4 :] + bytes([99] * count)


INCOMPLETE = {
    "no preamble": WHOLE[132:],
    "no transfer syntax": without_syntax(),
    "no transfer syntax, big endian": without_syntax(little=False),
    "bare, implicit": bare(implicit=True),
    "bare, explicit": bare(implicit=False),
    "bare, image pixel module only": bare(implicit=True, content=dicom()),
    "a byte more": longer(1),
    "a sample more": longer(2),
}


@pytest.mark.filterwarnings("ignore")  # pydicom's, on each of them
@pytest.mark.parametrize("name", INCOMPLETE)
def test_uncompressed_files_that_viewers_open_are_read(tmp_path, name):
    (tmp_path / "image").write_bytes(INCOMPLETE[name])
    np.testing.assert_allclose(read_image(tmp_path / "image"), SHOWN, atol=1)
    assert gather_images([tmp_path]) == [tmp_path / "image"]  # of any name in a folder
    upload = read_upload(INCOMPLETE[name], name="image", size=24, max_pixels=10**6)
    assert (upload.height, upload.width) == RAMP.shape


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00\x05\x00 is no tag and a length of text that goes on for long enough to be read",
        b"\x02\x00\x00\x00" * 300,
        bytes(2000),
        np.random.default_rng(0).bytes(2000),
        saved(RGB, "PNG"),
        saved(RGB, "TIFF"),
        b"\x08\x00\x05\x00\x02\x00\x00\x00ab\x08\x00\x04\x00",  # descending
        b"",
    ],
    ids=range(8),
)
def test_other_bytes_are_no_bare_data_set(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert not is_dicom(tmp_path / "a")


def compressed(syntax: str, stream: bytes, **elements) -> bytes:
    values = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, **elements}
    dataset = dcmread(io.BytesIO(dicom(**values)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=False)
    return out.getvalue()


def refusal(tmp_path, content: bytes) -> str:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.filterwarnings("ignore")
def test_a_compression_is_never_guessed(tmp_path):
    grey = (RAMP // 16).astype(np.uint8)
    content = without_syntax(content=compressed(JPEGBaseline8Bit, saved(grey, "JPEG")))
    assert "no TransferSyntaxUID that names the compression" in refusal(tmp_path, content)


@pytest.mark.parametrize("preamble", [True, False])
def test_a_deflated_file_is_not_inflated(tmp_path, preamble):
    content = dicom(syntax=DeflatedExplicitVRLittleEndian)
    assert "deflated" in refusal(tmp_path, content if preamble else content[132:])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("left", [0, 2, 100, NUM_BYTES - 1])
def test_a_cut_download_says_how_many_bytes_are_there(tmp_path, left):
    for whole in (WHOLE, bare(implicit=True), dicom(syntax=ImplicitVRLittleEndian)):
        line = refusal(tmp_path, whole[: len(whole) - NUM_BYTES + left])
        assert line.startswith(f"is cut, the download stopped: {left} of {NUM_BYTES} bytes of pixels")


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_ends_before_the_pixels_says_so(tmp_path):
    pixels, rows = WHOLE.index(b"\xe0\x7f\x10\x00"), WHOLE.index(b"\x28\x00\x10\x00")
    assert f"0 of {NUM_BYTES} bytes of pixels" in refusal(tmp_path, WHOLE[: pixels + 5])
    assert "the download stopped" in refusal(tmp_path, WHOLE[:pixels])
    assert "the download stopped in the header" in refusal(tmp_path, WHOLE[: rows - 3])
    # pixels that are too few in a file that is whole
    assert f"holds 100 of {NUM_BYTES} bytes" in refusal(tmp_path, dicom(PixelData=RAMP.tobytes()[:100]))
    no_image = dicom(PixelData=None, Rows=None)
    assert "give the file of the image" in refusal(tmp_path, no_image)


def j2k(pixels: np.ndarray) -> bytes:
    return saved(pixels, "JPEG2000", no_jp2=True)


def rle() -> tuple[bytes, bytes]:
    dataset = dcmread(io.BytesIO(WHOLE))
    dataset.compress(RLELossless)
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue(), get_frame(dataset.PixelData, 0, number_of_frames=1)


GREY = np.random.default_rng(0).integers(0, 256, RAMP.shape, dtype=np.uint8)
STREAMS = {
    JPEGBaseline8Bit: saved(GREY, "JPEG"),
    JPEG2000Lossless: j2k(GREY),
    RLELossless: rle()[1],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
@pytest.mark.parametrize("syntax", STREAMS, ids=lambda uid: uid.name[:9])
def test_cut_compressed_pixels_are_called_cut_and_nothing_is_to_be_installed(tmp_path, syntax, share):
    stream = STREAMS[syntax]
    deep = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11} if syntax == RLELossless else {}
    whole = compressed(syntax, stream, **deep)
    (tmp_path / "whole.dcm").write_bytes(whole)
    assert read_image(tmp_path / "whole.dcm").shape == RAMP.shape
    inside = compressed(syntax, stream[: int(len(stream) * share)], **deep)
    begin = whole.index(b"\xe0\x7f\x10\x00") + 30
    outside = whole[: begin + int((len(whole) - begin) * share)]
    for content, words in (
        (inside, "is cut, the download or export stopped"),
        (outside, "is cut, the download stopped"),
    ):
        line = refusal(tmp_path, content)
        assert words in line and "install" not in line


def test_damaged_pixels_are_not_blamed_on_a_decoder_that_is_there(tmp_path):
    line = refusal(tmp_path, compressed(JPEGBaseline8Bit, b"\xff\xd8" + bytes(50) + b"\xff\xd9"))
    assert "damaged or of a rare kind" in line and "install" not in line


@pytest.mark.skipif(find_spec("libjpeg") is not None, reason="a decoder of 12 bits is installed")
def test_what_pillow_cannot_read_needs_another_decoder(tmp_path):
    stream = b"\xff\xd8" + bytes(50) + b"\xff\xd9"
    line = refusal(tmp_path, compressed(JPEGExtended12Bit, stream, BitsAllocated=16, BitsStored=12))
    assert "install pylibjpeg" in line


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("depth", "stored", "signed"), [(14, 12, 0), (16, 12, 0), (16, 10, 0), (16, 16, 1), (12, 16, 0)]
)
def test_jpeg_2000_of_another_depth_or_sign_than_the_header_is_as_pydicom_reads_it(
    tmp_path, depth, stored, signed
):
    values = np.linspace(0, 2**depth - 1, RAMP.size).astype(np.uint16).reshape(RAMP.shape)
    content = compressed(
        JPEG2000Lossless,
        j2k(values),
        BitsAllocated=16,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=signed,
    )
    (tmp_path / "a.dcm").write_bytes(content)
    own = dcmread(tmp_path / "a.dcm").pixel_array.astype(float)
    wanted = np.rint((own - own.min()) / (own.max() - own.min()) * 255)
    np.testing.assert_allclose(read_image(tmp_path / "a.dcm"), wanted, atol=1)
    if not signed:
        assert wanted[0, 0] == 0 and wanted[-1, -1] == 255  # 14 bits under BitsStored 12 are not folded


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("depth", "stored", "signed"), [(14, 12, 0), (16, 10, 0), (14, 12, 1), (12, 16, 1)])
def test_jpeg_ls_of_another_depth_or_sign_than_the_header_is_as_pydicom_reads_it(
    tmp_path, depth, stored, signed
):
    jpeg_ls = pytest.importorskip("jpeg_ls", reason="pyjpegls is not installed")
    values = np.linspace(0, 2**depth - 1, RAMP.size).astype(np.uint16).reshape(RAMP.shape)
    header = {"BitsAllocated": 16, "BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": signed}
    (tmp_path / "a.dcm").write_bytes(
        compressed(JPEGLSLossless, bytes(jpeg_ls.encode_array(values)), **header)
    )
    own = dcmread(tmp_path / "a.dcm").pixel_array.astype(float)
    wanted = np.rint((own - own.min()) / (own.max() - own.min()) * 255)
    np.testing.assert_allclose(read_image(tmp_path / "a.dcm"), wanted, atol=1)


def test_a_bare_file_that_hides_its_deflation_is_not_inflated(tmp_path):
    uid = b"1.2.840.10008.1.2.1.99"
    packer = zlib.compressobj(9, wbits=-15)
    packed = b"".join(packer.compress(bytes(2**24)) for _ in range(16)) + packer.flush()  # 256 MiB
    tags = [(0x0002, 0x0002, b"1.2\0"), (0x0002, 0x0003, b"1.3\0"), (0x0002, 0x0010, uid)]
    meta = b"".join(struct.pack("<HHI", group, element, len(v)) + v for group, element, v in tags)
    tracemalloc.start()
    for content in (meta + packed, bytes(128) + b"DICM" + meta + packed):
        assert "deflated" in refusal(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
