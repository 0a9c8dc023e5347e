"""Hostile image files: refused in one line, or shown as a viewer shows them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile import refuse
from hostile_pictures import GREY, RAMP, RGB, RNG, chunk, dicom, huge_gif, nested, png, saved
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from csr.data.images.decode import read_image

FRAMES = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
GOOD = {
    "png": saved(GREY, "PNG"),
    "jpeg": saved(GREY, "JPEG"),
    "tiff": saved(GREY, "TIFF"),
    "bmp": saved(GREY, "BMP"),
    "gif": saved(GREY, "GIF"),
    "webp": saved(RGB, "WEBP"),
    "jp2": saved(GREY, "JPEG2000"),
    "dicom": dicom(),
    "tiff deflate": saved(GREY, "TIFF", compression="tiff_deflate"),
    "jpeg progressive": saved(RGB, "JPEG", progressive=True),
}


def refused(tmp_path: Path, content: bytes, *words: str, name: str = "a.png") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return refuse(lambda: read_image(path), str(path), *words, folder=tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("kind", GOOD)
def test_a_file_cut_short_is_named(tmp_path, kind, share):
    content = GOOD[kind]
    refused(tmp_path, content[: max(1, int(len(content) * share))])


@pytest.mark.parametrize("left", [1, 2, 8])
@pytest.mark.parametrize("kind", ["png", "tiff", "bmp", "dicom"])
def test_the_last_bytes_are_missed_or_not_needed(tmp_path, kind, left):
    """Bytes behind the pixels may be missing: then the pixels are those of the whole file."""
    path, whole = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(GOOD[kind][:-left])
    whole.write_bytes(GOOD[kind])
    expected = read_image(whole)
    try:
        assert (read_image(path) == expected).all()
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("suffix", [".png", ".dcm", ".jpg", ".txt", ""])
def test_the_content_decides_and_not_the_suffix(tmp_path, kind, suffix):
    path = tmp_path / f"image{suffix}"
    path.write_bytes(GOOD[kind])
    shown = read_image(path)
    assert shown.shape[:2] == (24, 20) and shown.dtype == np.uint8
    if kind in ("png", "bmp", "gif", "tiff", "jp2", "tiff deflate"):
        np.testing.assert_array_equal(shown if shown.ndim == 2 else shown[:, :, 0], GREY)


NO_IMAGES = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"hello\n",
    "html": b"<html>404 Not Found</html>",
    "json": b'{"a": 1}',
    "pdf": b"%PDF-1.7\n1 0 obj\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "zip": b"PK\x03\x04" + bytes(60),
    "elf": b"\x7fELF" + bytes(200),
    "gzip": b"\x1f\x8b\x08" + bytes(99),
    "zeros": bytes(10_000),
    "noise": RNG.bytes(10_000),
    "png magic": b"\x89PNG\r\n\x1a\n",
    "jpeg magic": b"\xff\xd8\xff",
    "gif magic": b"GIF89a",
    "jpeg ends": b"\xff\xd8\xff\xd9",
    "tiff magic": b"II*\x00",
    "webp magic": b"RIFF\x00\x00\x00\x00WEBP",
    "bmp magic": b"BM",
    "jp2 magic": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "icns": b"icns" + bytes(60),
    "psd": b"8BPS" + bytes(60),
    "nifti": struct.pack("<i", 348) + bytes(344),
    "avif": b"\x00\x00\x00\x1cftypavif" + bytes(40),
    "fits": b"SIMPLE  =                    T" + bytes(2850),
    "ppm": b"P6 2 2 255 " + bytes(12),
    "xbm": b"#define a_width 8\n",
    "dicom magic": bytes(128) + b"DICM",
    "dicom noise": bytes(128) + b"DICM" + RNG.bytes(3000),
    "dicom zeros": bytes(128) + b"DICM" + bytes(3000),
    "tiff loop": b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_named(tmp_path, name):
    refused(tmp_path, NO_IMAGES[name])


LIES = {
    "60,000 x 60,000": png(60_000, 60_000),
    "2^31 wide": png(2**31 - 1, 2),
    "2^32 high": png(2, 2**32 - 1),
    "no width": png(0, 5),
    "no height": png(5, 0),
    "rows missing": png(20, 24, rows=bytes(10)),
    "no rows": png(20, 24),
    "bad depth": png(20, 24, bits=7, rows=bytes(600)),
    "bad colour": png(20, 24, colour=5, rows=bytes(2000)),
    "bad filter": png(20, 24, rows=b"\x09" * 504),
    "palette missing": png(20, 24, colour=3, rows=b"\0" * 24 * 21, extra=b"")[:40],
    "a chunk of 2 GB": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(13),
    "two headers": saved(GREY, "PNG")[:33] * 2,
    "idat noise": png(20, 24).replace(zlib.compress(b""), b"\xff" * 8),
    "9,000 x 9,000": png(9000, 9000),
    "jpeg of 65,500 x 65,500": saved(GREY, "JPEG").replace(
        struct.pack(">HH", 24, 20), struct.pack(">HH", 65_500, 65_500), 1
    ),
    "gif of 65,535 x 65,535": huge_gif(),
    "bmp of 2^31": saved(GREY, "BMP").replace(
        struct.pack("<ii", 20, 24), struct.pack("<ii", 2**31 - 1, 2**30)
    ),
    "tiff of 2^31": saved(GREY, "TIFF").replace(
        struct.pack("<HHI", 256, 4, 1) + struct.pack("<I", 20),
        struct.pack("<HHI", 256, 4, 1) + struct.pack("<I", 2**31 - 1),
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_named(tmp_path, name):
    refused(tmp_path, LIES[name])


KINDS = {
    "gif": saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "apng": saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "webp": saved(FRAMES[0].convert("RGB"), "WEBP", save_all=True, append_images=[FRAMES[1].convert("RGB")]),
    "tiff": saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_several_frames_named_png_are_refused(tmp_path, kind):
    refused(tmp_path, KINDS[kind], "several frames")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.jpg"])
def test_floating_point_tiffs_are_refused_under_any_name(tmp_path, kind, name):
    refused(tmp_path, saved(GREY.astype(kind), "TIFF"), "floating-point or 32-bit", name=name)


def test_a_nan_in_a_float_tiff_is_no_exception(tmp_path):
    refused(tmp_path, saved(np.full((4, 4), np.nan, np.float32), "TIFF"), "floating-point")


# valid files


@pytest.mark.parametrize("shape", [(1, 1), (1, 60_000), (60_000, 1), (2, 3), (4096, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_any_shape_of_a_few_pixels_is_read(tmp_path, shape, kind):
    path = tmp_path / "a.png"
    path.write_bytes(saved(np.full(shape, 90, np.uint8), kind))
    shown = read_image(path)
    assert shown.shape == shape
    np.testing.assert_allclose(shown, 90, atol=1)


def palette(transparency: bytes | int | None = None) -> bytes:
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50, 255, 255, 255])
    return saved(picture, "PNG", **({} if transparency is None else {"transparency": transparency}))


COLOURS = [[10, 20, 30], [200, 100, 50], [255, 255, 255]]
SHOWN = {
    "palette": (palette(), [COLOURS]),
    "palette, first colour transparent": (palette(0), [[[0, 0, 0], *COLOURS[1:]]]),
    "palette with half transparency": (palette(bytes([255, 0, 255])), [[COLOURS[0], [0, 0, 0], COLOURS[2]]]),
    "16 bit": (saved(np.array([[0, 257, 65535, 32896]], np.uint16), "PNG"), [[0, 1, 255, 128]]),
    "16-bit tiff": (saved(np.array([[0, 257, 65535]], np.uint16), "TIFF"), [[0, 1, 255]]),
    "1 bit": (saved(Image.fromarray(np.array([[True, False]])), "PNG"), [[255, 0]]),
    "grey and alpha": (
        saved(Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8), "LA"), "PNG"),
        [[100, 0]],
    ),
    "rgba": (saved(np.array([[[9, 8, 7, 255], [9, 8, 7, 0]]], np.uint8), "PNG"), [[[9, 8, 7], [0, 0, 0]]]),
    "cmyk tiff": (saved(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "TIFF"), [[[255, 0, 0]] * 2]),
    "2-bit grey": (png(4, 1, bits=2, rows=bytes([0, 0b00011011])), [[0, 85, 170, 255]]),
    "16-bit rgb": (
        png(1, 1, bits=16, colour=2, rows=b"\0" + struct.pack(">3H", 257, 65535, 0)),
        [[[1, 255, 0]]],
    ),
    "interlaced": (png(1, 1, rows=b"\0\x07", interlace=1), [[7]]),
    "ycbcr tiff": (saved(Image.new("YCbCr", (2, 1), (128, 128, 128)), "TIFF"), [[[128, 128, 128]] * 2]),
    "a text beside": (png(1, 1, rows=b"\0\x07", extra=chunk(b"tEXt", b"k\0" + b"v" * 5000)), [[7]]),
    "garbage behind": (png(1, 1, rows=b"\0\x07") + b"garbage" * 99, [[7]]),
    "a jpeg named png": (saved(Image.new("RGB", (8, 8), (90, 90, 90)), "JPEG"), [[[90, 90, 90]] * 8] * 8),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_rare_kind_shows_its_values(tmp_path, name):
    content, wanted = SHOWN[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    np.testing.assert_allclose(read_image(path), wanted, atol=1)


@pytest.mark.parametrize(
    "ink, wanted",
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk_jpegs_become_rgb(tmp_path, ink, wanted):
    path = tmp_path / "a.png"
    path.write_bytes(saved(Image.new("CMYK", (16, 16), ink), "JPEG"))
    np.testing.assert_allclose(read_image(path)[3, 3], wanted, atol=3)


# DICOM


def lut(entries: int = 4096, first: int = 0, bits: int = 12, *, length: int | None = None):
    from pydicom.dataset import Dataset

    item = Dataset()
    item.LUTDescriptor = [entries, first, bits]
    item.LUTData = list(range(length or entries))
    item["LUTData"].VR = item["LUTDescriptor"].VR = "US"
    return [item]


HEADERS = {
    "no pixels": {"PixelData": None},
    "empty pixels": {"PixelData": b""},
    "half the pixels": {"PixelData": RAMP.tobytes()[:480]},
    "60,000 x 60,000": {"Rows": 60_000, "Columns": 60_000},
    "65,535 x 65,535": {"Rows": 65_535, "Columns": 65_535},
    "no rows": {"Rows": None},
    "0 rows": {"Rows": 0},
    "no columns": {"Columns": None},
    "0 columns": {"Columns": 0},
    "one row more": {"Rows": 25},
    "30,000 rows": {"Rows": 30_000},
    "2 frames": {"NumberOfFrames": 2},
    "10^9 frames": {"NumberOfFrames": 10**9},
    "-1 frames": {"NumberOfFrames": -1},
    "3 samples": {"SamplesPerPixel": 3},
    "0 samples": {"SamplesPerPixel": 0},
    "65,535 samples": {"SamplesPerPixel": 65_535},
    "no samples": {"SamplesPerPixel": None},
    "12 bits allocated": {"BitsAllocated": 12},
    "7 bits allocated": {"BitsAllocated": 7},
    "0 bits allocated": {"BitsAllocated": 0},
    "64 bits allocated": {"BitsAllocated": 64},
    "no bits allocated": {"BitsAllocated": None},
    "0 bits stored": {"BitsStored": 0},
    "17 bits stored": {"BitsStored": 17},
    "high bit 20": {"HighBit": 20},
    "high bit 0": {"HighBit": 0},
    "representation 2": {"PixelRepresentation": 2},
    "no representation": {"PixelRepresentation": None},
    "no interpretation": {"PhotometricInterpretation": None},
    "CIELAB": {"PhotometricInterpretation": "CIELAB"},
    "RGB of one sample": {"PhotometricInterpretation": "RGB"},
    "palette without a palette": {"PhotometricInterpretation": "PALETTE COLOR"},
    "YBR of one sample": {"PhotometricInterpretation": "YBR_FULL_422"},
    "empty interpretation": {"PhotometricInterpretation": ""},
    "voi table without data": {"VOILUTSequence": lut(4096, 0, 12, length=3)},
    "voi table of 0 bits": {"VOILUTSequence": lut(4096, 0, 0)},
    "voi table of 99 bits": {"VOILUTSequence": lut(4096, 0, 99)},
    "deflated": {"syntax": DeflatedExplicitVRLittleEndian},
}
# files that the standard forbids and a viewer shows nevertheless
LENIENT = {
    "no representation",
    "high bit 0",
    "representation 2",
    "-1 frames",
    "voi table without data",
    "voi table of 99 bits",
}


@pytest.mark.parametrize("name", sorted(set(HEADERS) - LENIENT))
def test_a_dicom_header_that_makes_no_sense_is_named(tmp_path, name):
    refused(tmp_path, dicom(**HEADERS[name]), name="a.dcm")


@pytest.mark.parametrize("name", sorted(LENIENT))
def test_a_dicom_header_with_a_slip_is_read_or_named(tmp_path, name):
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(**HEADERS[name]))
    try:
        assert read_image(path).shape == RAMP.shape
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "syntax",
    [
        JPEGLSLossless,
        JPEGLossless,
        JPEGLosslessSV1,
        HTJ2K,
        MPEG2MPML,
        RLELossless,
        JPEG2000Lossless,
        JPEGExtended12Bit,
    ],
    ids=lambda uid: uid.name[:30],
)
@pytest.mark.parametrize(
    "body", [b"\xff\xd8\xff\xd9", b"\0\0", b"\xff\x4f\xff\x51" + bytes(50), RNG.bytes(400)], ids=range(4)
)
def test_compressed_pixels_that_nothing_decodes_are_named(tmp_path, syntax, body):
    refused(tmp_path, dicom(syntax=syntax, PixelData=encapsulate([body])), name="a.dcm")


@pytest.mark.parametrize("uid", ["1.2.3.4", "", "x", "1.2.840.10008.1.2.4.9999", "1.2.840.10008.1.2.1\0"])
def test_an_unknown_transfer_syntax_is_read_as_plain_or_named(tmp_path, uid):
    path = tmp_path / "a.dcm"
    content = dicom()
    known = b"1.2.840.10008.1.2.1\0"
    padded = uid.encode().ljust(len(known), b"\0")[: len(known)]
    path.write_bytes(content.replace(known, padded, 1))
    try:
        assert read_image(path).shape == RAMP.shape
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("depth", [1, 20, 200])
def test_nested_sequences_beside_the_pixels_do_no_harm(tmp_path, depth):
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(ContentSequence=nested(depth)))
    try:
        assert read_image(path).shape == RAMP.shape
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("kind, dark_first", [("MONOCHROME2", True), ("MONOCHROME1", False)])
@pytest.mark.parametrize("dtype, bits", [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16), (np.int16, 12)])
def test_valid_dicoms_show_their_ramp(tmp_path, kind, dark_first, dtype, bits):
    ramp = np.linspace(0, 2 ** min(bits, 11) - 1, 480).astype(dtype).reshape(24, 20)
    path = tmp_path / "a.png"
    path.write_bytes(dicom(ramp, PhotometricInterpretation=kind, BitsStored=bits, HighBit=bits - 1))
    shown = read_image(path).astype(float)
    wanted = np.rint((ramp - ramp.min()) / (ramp.max() - ramp.min()) * 255)
    np.testing.assert_allclose(shown, wanted if dark_first else 255 - wanted, atol=1)


def test_a_valid_colour_dicom_shows_its_colours(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(RGB))
    np.testing.assert_array_equal(read_image(path), RGB)
