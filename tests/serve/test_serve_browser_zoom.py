"""Zoom and pan in a real headless Chromium: every pixel as it is at 1:1, and regions stay on their pixels."""

from __future__ import annotations

import re

import numpy as np
import pytest
from browsing import drag, grey_pixels, marks, on_stage, open_image, settle, shown_at, state
from serving import png

pytestmark = [pytest.mark.slow, pytest.mark.dist]
LARGE = np.random.default_rng(4).integers(0, 256, (1500, 2100), dtype=np.uint8)
BLOCK = np.zeros((300, 400), dtype=np.uint8)
BLOCK[90:150, 240:320] = 255


@pytest.fixture
def opened_as(page, tmp_path):
    def open_pixels(pixels):
        (tmp_path / "shown.png").write_bytes(png(pixels))
        open_image(page, tmp_path / "shown.png")
        settle(page)
        page.locator("#stage").scroll_into_view_if_needed()
        return page

    return open_pixels


def extent(pixels):
    rows, columns = np.flatnonzero((pixels > 127).any(1)), np.flatnonzero((pixels > 127).any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_one_to_one_shows_every_pixel_of_an_image_larger_than_its_preview(opened_as):
    page = opened_as(LARGE)
    assert page.inner_text("#zoom") != "100%"
    page.click("#zoom-one")
    settle(page)
    assert page.inner_text("#zoom") == "100%" and page.is_disabled("#zoom-one")
    pixels = grey_pixels(page)
    middle = shown_at(pixels, LARGE)
    assert middle == pytest.approx((2100 / 2 - 12, 1500 / 2 - 12), abs=1), "the middle stays in the middle"
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    settle(page)
    assert shown_at(grey_pixels(page), LARGE) == (middle[0] + 48, middle[1] - 48)
    asked = [url for url in page.asked if "/depth/raw" in url]
    assert 0 < len(asked) <= 20, "what is seen, and not the whole image at once"
    for url in asked:
        width, height, reduce = (
            int(re.search(rf"{name}=(\d+)", url)[1]) for name in ("width", "height", "reduce")
        )
        assert max(width, height) <= 512 * reduce


def test_at_the_edge_the_image_ends_where_the_stage_does(opened_as):
    page = opened_as(LARGE)
    page.click("#zoom-one")
    for at, to in (((0.2, 0.2), (0.9, 0.9)), ((0.2, 0.2), (0.9, 0.9)), ((0.1, 0.1), (0.9, 0.9))):
        page.mouse.move(*on_stage(page, *at))
        page.mouse.down()
        page.mouse.move(*on_stage(page, *to), steps=3)
        page.mouse.up()
    settle(page)
    pixels = grey_pixels(page)
    np.testing.assert_array_equal(pixels[:200, :200], LARGE[:200, :200])


def test_regions_stay_on_the_same_pixels_under_zoom_and_pan(opened_as, address):
    page = opened_as(BLOCK)
    page.click('label:has-text("Look here")')
    drag(page, 240 / 400, 90 / 300, 320 / 400, 150 / 300)
    page.wait_for_selector(".boxrow")
    page.click('label:has-text("Move")')
    drawn = state(page, address)["edits"]
    frame = page.locator("#stage").bounding_box()
    page.mouse.move(*on_stage(page, 0.65, 0.45))
    page.mouse.wheel(0, -240)
    settle(page)
    before = grey_pixels(page)
    assert extent(before) == pytest.approx(marks(page, "box")[0], abs=2.5)
    width = marks(page, "box")[0][2] - marks(page, "box")[0][0]
    assert width > 1.5 * 80 / 400 * frame["width"], "it is enlarged"
    page.focus("#stage")
    page.keyboard.down("Space")
    page.mouse.down()
    page.mouse.move(*on_stage(page, 0.5, 0.55), steps=4)
    page.mouse.up()
    page.keyboard.up("Space")
    settle(page)
    after = extent(grey_pixels(page))
    assert after == pytest.approx(marks(page, "box")[0], abs=2.5)
    moved = [-0.15 * frame["width"], 0.1 * frame["height"]] * 2
    assert np.subtract(after, extent(before)) == pytest.approx(moved, abs=2.5)
    page.mouse.move(*on_stage(page, 0.5, 0.5))
    page.mouse.down(button="middle")
    page.mouse.move(*on_stage(page, 0.45, 0.5), steps=3)
    page.mouse.up(button="middle")
    settle(page)
    assert extent(grey_pixels(page)) == pytest.approx(marks(page, "box")[0], abs=2.5)
    assert state(page, address)["edits"] == drawn, "looking edits nothing"


def test_a_region_drawn_while_zoomed_lies_on_the_pixels_below_it(opened_as, address):
    page = opened_as(BLOCK)
    page.mouse.move(*on_stage(page, 0.7, 0.4))
    page.mouse.wheel(0, -300)
    settle(page)
    left, top, right, bottom = map(float, extent(grey_pixels(page)))
    page.click('label:has-text("Not here")')
    frame = page.locator("#stage").bounding_box()
    page.mouse.move(frame["x"] + left, frame["y"] + top)
    page.mouse.down()
    page.mouse.move(frame["x"] + right, frame["y"] + bottom, steps=4)
    page.mouse.up()
    page.wait_for_selector(".boxrow")
    drawn = state(page, address)["edits"]["boxes"][0]
    wanted = [240 / 400, 90 / 300, 320 / 400, 150 / 300]
    assert [drawn[name] for name in ("x_min", "y_min", "x_max", "y_max")] == pytest.approx(wanted, abs=0.005)


def test_zoom_by_keys_buttons_and_double_click(opened_as):
    page = opened_as(LARGE)
    fitted = page.inner_text("#zoom")
    assert page.is_disabled("#zoom-fit") and not page.is_visible("#picture")
    page.focus("#stage")
    page.keyboard.press("+")
    assert float(page.inner_text("#zoom")[:-1]) == pytest.approx(1.25 * float(fitted[:-1]), abs=1)
    page.keyboard.press("-")
    assert page.inner_text("#zoom") == fitted
    page.keyboard.press("1")
    assert page.inner_text("#zoom") == "100%"
    page.keyboard.press("0")
    assert page.inner_text("#zoom") == fitted
    page.click("#zoom-in")
    page.click("#zoom-fit")
    assert page.inner_text("#zoom") == fitted
    page.mouse.dblclick(*on_stage(page, 0.3, 0.3))
    assert page.inner_text("#zoom") == "100%"
    page.mouse.dblclick(*on_stage(page, 0.3, 0.3))
    assert page.inner_text("#zoom") == fitted
    page.mouse.wheel(0, 300)
    assert page.inner_text("#zoom") == fitted, "a wheel downwards scrolls the page"
    for _ in range(40):
        page.click("#zoom-in") if page.is_enabled("#zoom-in") else None
    assert page.is_disabled("#zoom-in") and float(page.inner_text("#zoom")[:-1]) <= 1600


def test_the_crosshair_is_there_for_the_keyboard_alone(opened_as):
    page = opened_as(BLOCK)
    cursor = page.locator("#marks .cursor")
    page.focus("#stage")
    page.keyboard.press("p")
    page.keyboard.press("ArrowLeft")
    assert cursor.count() == 4
    page.mouse.move(*on_stage(page, 0.5, 0.5))
    assert cursor.count() == 0 and page.get_attribute("#stage", "data-over") == "image"
    frame = page.locator("#stage").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] + 30, frame["y"] - 20)
    assert cursor.count() == 0 and page.get_attribute("#stage", "data-over") == ""
    page.keyboard.press("ArrowLeft")
    assert cursor.count() == 4
    page.focus("#undo") if page.is_enabled("#undo") else page.focus("#open")
    assert cursor.count() == 0
