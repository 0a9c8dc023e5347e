"""Windows that do not fit, padding and inversion of grey DICOM files, against formulas of DICOM PS3.3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hostile_pictures import RAMP, dicom

from csr.data.images.decode import DecodedImage, decode_image
from csr.runtime.errors import InputError

STRETCHED = np.rint(RAMP / 4095 * 255)


def shown(folder: Path, pixels: np.ndarray = RAMP, *, swap: tuple[bytes, bytes] | None = None, **elements):
    content = dicom(pixels, **elements)
    if swap is not None:
        assert content.count(swap[0]) == 1
        content = content.replace(*swap)
    (folder / "a.dcm").write_bytes(content)
    return decode_image(folder / "a.dcm")


def kinds(image: DecodedImage) -> list[str]:
    return [note.kind for note in image.notes]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("width", "detail"),
    [
        (b"24,6", "WindowWidth '24,6'"),
        (b"N/A ", "WindowWidth 'N/A'"),
        (b"[40]", "WindowWidth '[40]'"),
        (b"0   ", "WindowWidth 0"),
        (b"-1  ", "WindowWidth -1"),
        (b"0.5 ", "WindowWidth 0.5"),
        (b"nan ", "WindowWidth nan"),
        (b"    ", "no WindowWidth"),
    ],
)
def test_a_window_that_is_none_is_noted_and_the_pixels_are_stretched(tmp_path, width, detail):
    image = shown(tmp_path, WindowCenter="1000", WindowWidth="9876", swap=(b"9876", width), Manufacturer="A")
    assert [(note.kind, note.detail, note.maker) for note in image.notes] == [("unusable", detail, "A")]
    np.testing.assert_allclose(image.pixels, STRETCHED, atol=1)


@pytest.mark.parametrize("elements", [{"WindowCenter": 5}, {"VOILUTFunction": "CUBIC"}])
def test_half_a_window_and_an_unknown_function_are_none(tmp_path, elements):
    values = {"WindowCenter": 5, "WindowWidth": 9, **elements} if "VOILUTFunction" in elements else elements
    assert kinds(shown(tmp_path, **values)) == ["unusable"]


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("centre", [-3174, 9000])
def test_a_window_beside_all_pixels_gives_way_to_their_range(tmp_path, kind, centre):
    image = shown(tmp_path, PhotometricInterpretation=kind, WindowCenter=centre, WindowWidth=2426)
    white = (centre < 0) != (kind == "MONOCHROME1")
    (note,) = image.notes
    assert note.kind == "beside"
    assert note.detail == f"100.0% {'white' if white else 'black'} by window {centre}/2426, pixels 0 to 4095"
    wanted = STRETCHED if kind == "MONOCHROME2" else 255 - STRETCHED
    np.testing.assert_allclose(image.pixels, wanted, atol=1)


def test_a_window_that_clips_most_pixels_is_applied_and_noted(tmp_path):
    image = shown(tmp_path, WindowCenter=40, WindowWidth=80)
    wanted = np.rint(np.clip((RAMP - 39.5) / 79 + 0.5, 0, 1) * 255)
    np.testing.assert_allclose(image.pixels, wanted, atol=1)
    white, black = (wanted == 255).mean(), (wanted == 0).mean()
    assert [note.detail for note in image.notes] == [
        f"{white:.1%} white, {black:.1%} black by window 40/80, pixels 0 to 4095"
    ]
    assert kinds(image) == ["clipping"]
    # 5 % and more of the pixels inside: no note
    assert kinds(shown(tmp_path, WindowCenter=2000, WindowWidth=230)) == []
    assert kinds(shown(tmp_path)) == []


def test_a_flat_image_is_shown_by_its_window(tmp_path):
    flat = shown(tmp_path, np.full((9, 9), 3000, np.uint16), WindowCenter=1000, WindowWidth=500)
    assert (flat.pixels == 255).all() and kinds(flat) == []


def test_a_rescale_that_is_no_number_is_named(tmp_path):
    elements = {"RescaleSlope": "1.25", "RescaleIntercept": "0"}
    with pytest.raises(InputError, match="RescaleSlope '1,25'"):
        shown(tmp_path, swap=(b"1.25", b"1,25"), **elements)


# padding: the left half


def half_padded(value: int, dtype: str = "<u2") -> np.ndarray:
    pixels = RAMP.astype(dtype) // 4 + 100
    pixels[:, :10] = value
    return pixels


def tissue(pixels: np.ndarray) -> np.ndarray:
    """Return what the right half shows: from its darkest to its brightest pixel, by numpy alone."""
    part = pixels[:, 10:].astype(float)
    return np.rint((part - part.min()) / (part.max() - part.min()) * 255)


PADDED = {
    "0": (half_padded(0), {"PixelPaddingValue": 0}),
    "white": (half_padded(4095), {"PixelPaddingValue": 4095}),
    "signed": (half_padded(-2000, "<i2"), {"BitsStored": 16, "HighBit": 15, "PixelPaddingValue": -2000}),
    "signed, 12 bits": (half_padded(-2000, "<i2"), {"PixelPaddingValue": -2000}),
    "signed, pattern of 12 bits": (half_padded(-2000, "<i2"), {"PixelPaddingValue": 2096}),
    "range": (
        np.where(np.arange(20) < 10, np.arange(24)[:, None] % 10, half_padded(0)).astype("<u2"),
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9},
    ),
    "range, the other way": (
        np.where(np.arange(20) < 10, np.arange(24)[:, None] % 10, half_padded(0)).astype("<u2"),
        {"PixelPaddingValue": 9, "PixelPaddingRangeLimit": 0},
    ),
}


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("name", PADDED)
def test_padding_is_black_and_no_part_of_the_range(tmp_path, name, kind):
    pixels, elements = PADDED[name]
    image = shown(tmp_path, pixels, PhotometricInterpretation=kind, **elements).pixels
    assert (image[:, :10] == 0).all()
    wanted = tissue(pixels) if kind == "MONOCHROME2" else 255 - tissue(pixels)
    np.testing.assert_allclose(image[:, 10:], wanted, atol=1)


def test_a_signed_padding_value_may_be_written_as_unsigned(tmp_path):
    elements = {"BitsStored": 16, "HighBit": 15, "PixelPaddingValue": -2000}
    tag = b"\x28\x00\x20\x01"
    pixels = half_padded(-2000, "<i2")
    image = shown(tmp_path, pixels, swap=(tag + b"SS", tag + b"US"), **elements).pixels
    assert (image[:, :10] == 0).all()
    np.testing.assert_allclose(image[:, 10:], tissue(pixels), atol=1)


def test_padding_is_black_under_a_window_too_and_is_not_counted_as_clipped(tmp_path):
    window = {"WindowCenter": 1000, "WindowWidth": 1000, "PixelPaddingValue": 0}
    pixels = half_padded(0)
    image = shown(tmp_path, pixels, PhotometricInterpretation="MONOCHROME1", **window)
    wanted = 255 - np.rint(np.clip((pixels[:, 10:] - 999.5) / 999 + 0.5, 0, 1) * 255)
    assert (image.pixels[:, :10] == 0).all() and kinds(image) == []
    np.testing.assert_allclose(image.pixels[:, 10:], wanted, atol=1)


def test_an_image_of_padding_alone_is_black(tmp_path):
    assert not shown(tmp_path, PixelPaddingValue=0, PixelPaddingRangeLimit=4095).pixels.any()


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2048, "WindowWidth": 4096}])
@pytest.mark.parametrize(
    ("kind", "shape", "inverted"),
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "INVERSE", True),  # once
        ("MONOCHROME1", "IDENTITY", True),
    ],
)
def test_the_presentation_lut_inverts_once(tmp_path, kind, shape, inverted, window):
    image = shown(tmp_path, PhotometricInterpretation=kind, PresentationLUTShape=shape, **window).pixels
    np.testing.assert_allclose(image, 255 - STRETCHED if inverted else STRETCHED, atol=1)
