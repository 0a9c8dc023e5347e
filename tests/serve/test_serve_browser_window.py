"""The grey window in a real headless Chromium: pixels as a table of numpy makes them, all else stays."""

from __future__ import annotations

import numpy as np
import pytest
from browsing import grey_pixels, on_stage, open_image, probabilities, settle, shown_at, state
from hostile_pictures import dicom
from serving import png

from csr.data.images.decode import decode_image

pytestmark = [pytest.mark.slow, pytest.mark.dist]
DEEP = np.random.default_rng(6).integers(0, 4096, (200, 300), dtype=np.uint16)
DEEP[:40] = 0
ELEMENTS = {
    "WindowCenter": [1000, 2600],
    "WindowWidth": [1500, 801],
    "WindowCenterWidthExplanation": ["NORMAL", "<b>HARDER"],
    "RescaleSlope": 2,
    "RescaleIntercept": -1024,
    "PixelPaddingValue": 0,
}
LARGE = np.random.default_rng(7).integers(0, 4096, (1600, 1500), dtype=np.uint16)


def table(centre, width, *, inverted=False, pixels=DEEP):
    value = 2.0 * pixels - 1024
    grey = np.rint(np.clip((value - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255)
    shown = (255 - grey if inverted else grey).astype(np.uint8)
    shown[pixels == 0] = 0
    return shown


def shown_to(page, tmp_path, pixels=DEEP, **elements):
    (tmp_path / "scan.dcm").write_bytes(dicom(pixels, **{**ELEMENTS, **elements}))
    open_image(page, tmp_path / "scan.dcm")
    page.wait_for_selector("#window-preset:not([disabled])")
    page.click("#zoom-one")
    settle(page)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_windows_change_pixels_as_a_table_of_numpy_does(page, address, tmp_path, kind):
    inverted = kind == "MONOCHROME1"
    shown_to(page, tmp_path, PhotometricInterpretation=kind)
    first, asked = probabilities(page), state(page, address)
    names = page.locator("#window-preset option").all_inner_texts()
    assert names[:3] == ["as the model sees it", "NORMAL (C 1000, W 1500)", "<b>HARDER (C 2600, W 801)"]
    as_seen = grey_pixels(page)
    decoded = decode_image(tmp_path / "scan.dcm").pixels
    assert shown_at(as_seen, decoded) is not None, "as the model sees it"
    place = shown_at(as_seen, decoded)
    assert page.input_value("#window-centre") == "1000" and page.inner_text("#window-note") == ""
    page.select_option("#window-preset", "1")
    settle(page)
    assert shown_at(grey_pixels(page), table(2600, 801, inverted=inverted)) == place
    assert (page.input_value("#window-centre"), page.input_value("#window-width")) == ("2600", "801")
    assert "Your view only" in page.inner_text("#window-note")
    page.select_option("#window-preset", "0")
    settle(page)
    np.testing.assert_array_equal(grey_pixels(page), as_seen)
    page.fill("#window-centre", "1234.5")
    page.press("#window-centre", "Enter")
    page.fill("#window-width", "333")
    page.press("#window-width", "Enter")
    settle(page)
    assert shown_at(grey_pixels(page), table(1234.5, 333, inverted=inverted)) == place
    page.fill("#window-width", "-5")
    page.press("#window-width", "Enter")
    assert page.input_value("#window-width") == "333", "no window is that wide"
    page.select_option("#window-preset", "model")
    settle(page)
    np.testing.assert_array_equal(grey_pixels(page), as_seen)
    assert probabilities(page) == first and state(page, address) == asked, "the diagnoses do not change"


def test_a_drag_to_the_right_is_wider_and_one_upwards_is_brighter(page, tmp_path):
    shown_to(page, tmp_path)
    page.click('label:has-text("Window")')
    before = [float(page.input_value(f"#window-{name}")) for name in ("centre", "width")]
    frame = page.locator("#stage").bounding_box()
    page.mouse.move(*on_stage(page, 0.4, 0.6))
    page.mouse.down()
    page.mouse.move(*on_stage(page, 0.5, 0.35), steps=5)
    page.mouse.up()
    settle(page)
    centre, width = (float(page.input_value(f"#window-{name}")) for name in ("centre", "width"))
    span = 2 * (DEEP[DEEP > 0].max() - DEEP[DEEP > 0].min())
    assert width == pytest.approx(before[1] + 0.1 * span, abs=span / frame["width"] + 1)
    assert centre == pytest.approx(before[0] - 0.25 * span, abs=span / frame["height"] + 1)
    assert page.input_value("#window-preset") == "own"
    pixels = grey_pixels(page)
    place = shown_at(pixels, table(centre, width))
    assert place is not None, "as the numbers beside the image say"
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    assert float(page.input_value("#window-width")) == pytest.approx(width + 0.02 * span, abs=1)
    assert page.locator(".boxrow").count() == 0, "a drag with this tool draws no region"


def test_a_large_image_is_windowed_part_by_part(page, tmp_path):
    shown_to(page, tmp_path, LARGE)
    page.select_option("#window-preset", "1")
    settle(page)
    place = shown_at(grey_pixels(page), table(2600, 801, pixels=LARGE))
    assert place == pytest.approx((1500 / 2 - 12, 1600 / 2 - 12), abs=1)


def test_colour_and_16_bit_pictures_have_windows_too(page, tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    # of another size: what the page says of it is what the test waits for
    deep = np.random.default_rng(2).integers(0, 65536, (110, 150), dtype=np.uint16)
    for pixels, centre, width, grey in ((colour, 90, 60, colour[..., 0]), (deep, 30000, 9000, deep)):
        (tmp_path / "shown.png").write_bytes(png(pixels))
        page.set_input_files("#file", tmp_path / "shown.png")
        page.wait_for_selector(f'#image-facts:has-text("{pixels.shape[1]} \u00d7 {pixels.shape[0]}")')
        page.wait_for_selector("#window-preset:not([disabled])")
        settle(page)
        page.click("#zoom-one")
        for name, value in (("centre", centre), ("width", width)):
            page.fill(f"#window-{name}", str(value))
            page.press(f"#window-{name}", "Enter")
        settle(page)
        wanted = np.rint(np.clip((grey.astype(float) - centre) / width + 0.5, 0, 1) * 255).astype(np.uint8)
        assert shown_at(grey_pixels(page), wanted) is not None


def test_a_number_half_typed_stays_when_the_full_depth_arrives(page, tmp_path):
    shown_to(page, tmp_path)
    held = []
    page.route("**/depth/raw*", lambda route: held.append(route))
    page.fill("#window-centre", "1234")
    page.press("#window-centre", "Enter")
    page.wait_for_selector('#window-note:has-text("Reading the full depth")')
    page.fill("#window-width", "333")
    while not held:  # the full depth is asked for
        page.wait_for_timeout(20)
    for request in held:
        request.continue_()
    page.unroute("**/depth/raw*")
    settle(page)
    page.wait_for_selector('#window-note:has-text("Your view only")')
    page.press("#window-width", "Enter")
    settle(page)
    assert page.input_value("#window-width") == "333"
    assert shown_at(grey_pixels(page), table(1234, 333)) is not None


def test_text_of_a_file_is_text_and_a_file_without_windows_has_its_range(page, tmp_path):
    shown_to(page, tmp_path, WindowCenter=None, WindowWidth=None, WindowCenterWidthExplanation=None)
    texts = page.locator("#window-preset option").all_inner_texts()
    assert len(texts) == 3 and texts[1].startswith("full range (C ")
    assert page.locator("#window-preset b").count() == 0
