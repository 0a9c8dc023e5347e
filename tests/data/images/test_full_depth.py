"""Images in full depth against pydicom's values, numpy's windows, and what `decode_image` shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hostile_pictures import GREY, RAMP, RGB, dicom, saved
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut

from csr.data.images.decode import decode_image
from csr.data.images.full_depth import FullDepth, decode_full_depth
from csr.runtime.errors import InputError, TooLargeError

SIGNED = (RAMP.astype(np.int16) - 2048).astype(np.int16)
PADDED = np.where(RAMP < 300, 0, RAMP).astype(np.uint16)
FILES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "plain": (RAMP, {}),
    "rescaled": (RAMP, {"RescaleSlope": 2, "RescaleIntercept": -1024}),
    "falling": (RAMP, {"RescaleSlope": -0.5, "RescaleIntercept": 7}),
    "signed": (SIGNED, {"BitsStored": 16, "HighBit": 15, "RescaleSlope": 1, "RescaleIntercept": -3}),
    "window": (RAMP, {"WindowCenter": 1500, "WindowWidth": 900}),
    "exact": (RAMP, {"WindowCenter": 1500, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"}),
    "sigmoid": (RAMP, {"WindowCenter": 1500, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"}),
    "monochrome1": (
        RAMP,
        {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1500, "WindowWidth": 900},
    ),
    "inverse": (RAMP, {"PresentationLUTShape": "INVERSE", "WindowCenter": 1500, "WindowWidth": 900}),
    "padded": (PADDED, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 10}),
    "padded1": (PADDED, {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"}),
    "beside": (RAMP, {"WindowCenter": -9000, "WindowWidth": 10}),
    "byte": (GREY, {}),
}


def decoded(folder: Path, data: bytes) -> FullDepth:
    (folder / "image").write_bytes(data)
    return decode_full_depth(folder / "image")


def values(depth: FullDepth) -> np.ndarray:
    return depth.slope * depth.raw.astype(np.float64) + depth.intercept


@pytest.mark.parametrize("name", FILES)
def test_values_are_those_of_pydicom_and_the_table_shows_what_is_displayed(tmp_path, name):
    pixels, elements = FILES[name]
    data = dicom(pixels, **elements)
    depth = decoded(tmp_path, data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    np.testing.assert_allclose(values(depth), apply_modality_lut(dataset.pixel_array, dataset), atol=1e-9)
    np.testing.assert_array_equal(depth.shown_N[depth.raw], decode_image(tmp_path / "image").pixels)
    assert depth.is_exact and depth.raw.min() == 0


@pytest.mark.parametrize(
    ("name", "shown_by", "centre", "width"),
    [
        ("window", "window", 1500, 900),
        ("plain", "range", 2048, 4096),
        ("beside", "range", 2048, 4096),
        ("exact", "window", 1500, 900),
    ],
)
def test_the_window_that_the_model_sees_through(tmp_path, name, shown_by, centre, width):
    depth = decoded(tmp_path, dicom(FILES[name][0], **FILES[name][1]))
    assert (depth.shown_by, depth.window.centre, depth.window.width) == (shown_by, centre, width)
    grey = [int(depth.shown_N[n]) for n in (0, 1000, 1500, 4095)]
    low, span = (centre - 0.5, width - 1) if depth.function == "LINEAR" else (centre, width)
    wanted = [np.rint(np.clip((v - low) / span + 0.5, 0, 1) * 255) for v in (0, 1000, 1500, 4095)]
    np.testing.assert_allclose(grey, wanted, atol=1)


def test_all_windows_have_their_explanations_and_unusable_ones_are_left_out(tmp_path):
    elements = {
        "WindowCenter": [40, 50, 60, 70],
        "WindowWidth": [400, 0, 300, 200],
        "WindowCenterWidthExplanation": ["SOFT", "NONE", "LUNG"],
    }
    depth = decoded(tmp_path, dicom(**elements))
    found = [(one.name, one.centre, one.width) for one in depth.windows]
    assert found == [("SOFT", 40, 400), ("LUNG", 60, 300), ("", 70, 200)]
    many = dicom(WindowCenter=list(range(900)), WindowWidth=[9] * 900)
    assert len(decoded(tmp_path, many).windows) == 16


@pytest.mark.parametrize("centres, widths", [([40, 50, 60], [100, 80]), ([40], [100, 80])])
def test_of_windows_that_cannot_be_told_apart_the_first_alone_is_named(tmp_path, centres, widths):
    depth = decoded(tmp_path, dicom(WindowCenter=centres, WindowWidth=widths))
    assert [(one.name, one.centre, one.width) for one in depth.windows] == [("", 40, 100)]


@pytest.mark.filterwarnings("ignore")
def test_text_in_place_of_windows_gives_none(tmp_path):
    data = dicom(WindowCenter="1000", WindowWidth="9876").replace(b"9876", b"N/A ")
    assert decoded(tmp_path, data).windows == ()


def test_a_voi_table_is_no_window(tmp_path):
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.LUTData = (65535 - 16 * np.arange(4096)).astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    depth = decoded(tmp_path, dicom(VOILUTSequence=[item], WindowCenter=9, WindowWidth=9))
    assert depth.shown_by == "table" and depth.window is None
    np.testing.assert_array_equal(depth.shown_N[depth.raw], decode_image(tmp_path / "image").pixels)
    assert depth.shown_N[0] == 255 and depth.shown_N[-1] == 0


def test_a_modality_table_gives_the_values(tmp_path):
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.ModalityLUTType = "US"
    item.LUTData = (5 * np.arange(4096)).astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    depth = decoded(tmp_path, dicom(ModalityLUTSequence=[item]))
    np.testing.assert_array_equal(values(depth), 5.0 * RAMP)
    np.testing.assert_array_equal(depth.shown_N[depth.raw], decode_image(tmp_path / "image").pixels)


def test_padding_is_a_range_of_raw_numbers_and_no_end_of_the_values(tmp_path):
    depth = decoded(tmp_path, dicom(PADDED, PixelPaddingValue=0, PixelPaddingRangeLimit=10))
    assert depth.padding == (0, 0)
    assert (depth.low, depth.high) == (float(PADDED[PADDED > 0].min()), 4095.0)


@pytest.mark.parametrize(("slope", "intercept"), [("nan", "0"), ("0", "5"), ("1e300", "0"), ("1", "inf")])
@pytest.mark.filterwarnings("ignore")
def test_a_rescale_that_makes_no_numbers_leaves_the_stored_values(tmp_path, slope, intercept):
    data = dicom(RescaleSlope="7.25", RescaleIntercept="7.75", WindowCenter=99, WindowWidth=9)
    data = data.replace(b"7.25", slope.ljust(4).encode()[:4] if len(slope) <= 4 else b"1e99")
    data = data.replace(b"7.75", intercept.ljust(4).encode())
    depth = decoded(tmp_path, data)
    np.testing.assert_array_equal(values(depth), RAMP)
    assert np.isfinite([depth.low, depth.high, depth.slope, depth.intercept]).all()


def test_more_than_16_bits_are_rounded_and_said_to_be(tmp_path):
    pixels = (RAMP.astype(np.uint32) * 100_000).astype(np.uint32)
    depth = decoded(tmp_path, dicom(pixels, BitsStored=32, HighBit=31))
    step = (int(pixels.max()) - int(pixels.min())) / 65535
    assert not depth.is_exact and depth.raw.dtype == np.uint16
    np.testing.assert_allclose(values(depth), pixels, atol=step / 2 + 1e-6)
    np.testing.assert_allclose(
        depth.shown_N[depth.raw].astype(int), decode_image(tmp_path / "image").pixels.astype(int), atol=1
    )


def test_pictures_keep_16_bits_and_others_their_8(tmp_path):
    deep = np.arange(480, dtype=np.uint16).reshape(24, 20) * 136
    depth = decoded(tmp_path, saved(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(depth.raw, deep)
    np.testing.assert_array_equal(depth.shown_N[deep], decode_image(tmp_path / "image").pixels)
    for kind, pixels in (("PNG", GREY), ("PNG", RGB), ("BMP", RGB)):
        depth = decoded(tmp_path, saved(pixels, kind))
        np.testing.assert_array_equal(depth.raw, pixels)
        np.testing.assert_array_equal(depth.shown_N, np.arange(256))
    colour = decoded(tmp_path, dicom(RGB))
    np.testing.assert_array_equal(colour.raw, decode_image(tmp_path / "image").pixels)


def test_a_turned_picture_is_upright_and_not_reduced(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    depth = decoded(tmp_path, saved(Image.fromarray(GREY).resize((800, 600)), "JPEG", exif=exif))
    assert depth.raw.shape == (800, 600)
    np.testing.assert_array_equal(depth.raw, decode_image(tmp_path / "image").pixels)


def test_what_cannot_be_read_is_refused_as_by_decoding(tmp_path):
    with pytest.raises(InputError, match="no image that can be read"):
        decoded(tmp_path, b"junk")
    (tmp_path / "a").write_bytes(dicom())
    with pytest.raises(TooLargeError):
        decode_full_depth(tmp_path / "a", max_pixels=400)
