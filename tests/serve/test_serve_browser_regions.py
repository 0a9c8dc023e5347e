"""Regions in a real headless Chromium: moved, resized, tied to a concept, and the cells they count as."""

from __future__ import annotations

import numpy as np
import pytest
from bright_model import WIDE, block_image, bright_model
from browsing import (
    WAIT_MS,
    drag,
    grey_pixels,
    marks,
    on_stage,
    open_image,
    percents,
    probabilities,
    run_server,
    settle,
    state,
    wait_for_step,
)
from serving import png
from tiny_model import CONCEPTS

from csr.serve.access import Access
from csr.serve.app import create_app
from csr.serve.limits import Limits
from csr.serve.service import Service

pytestmark = [pytest.mark.slow, pytest.mark.dist]
NAMES = ("x_min", "y_min", "x_max", "y_max")


def corners(page, address, i=0):
    return [state(page, address)["edits"]["boxes"][i][name] for name in NAMES]


def draw(page, *box, tool="Look here"):
    page.click(f'label:has-text("{tool}")')
    number = page.locator(".boxrow").count()
    drag(page, *box)
    page.wait_for_selector(f".boxrow:nth-child({number + 1})")


def pull(page, at, to):
    page.mouse.move(*on_stage(page, *at))
    page.mouse.down()
    page.mouse.move(*on_stage(page, *to), steps=4)
    page.mouse.up()


def test_a_region_is_moved_and_resized_by_the_mouse_each_in_one_step(page, address, image):
    open_image(page, image)
    draw(page, 0.2, 0.2, 0.5, 0.6)
    page.click('label:has-text("Move")')
    pull(page, (0.35, 0.4), (0.45, 0.5))
    wait_for_step(page, address, 2)
    assert corners(page, address) == pytest.approx([0.3, 0.3, 0.6, 0.7], abs=0.01)
    assert probabilities(page) == percents(state(page, address))
    for step, (at, to, wanted) in enumerate(
        [
            ((0.6, 0.7), (0.8, 0.9), [0.3, 0.3, 0.8, 0.9]),
            ((0.3, 0.6), (0.1, 0.1), [0.1, 0.3, 0.8, 0.9]),
            ((0.45, 0.3), (0.1, 0.5), [0.1, 0.5, 0.8, 0.9]),
            ((0.8, 0.5), (0.05, 0.95), [0.1, 0.89, 0.11, 0.9]),
        ],
        3,
    ):
        pull(page, at, to)
        wait_for_step(page, address, step)
        assert corners(page, address) == pytest.approx(wanted, abs=0.012), (
            "one side or two, never beyond the other"
        )
    for step in (5, 4, 3):
        page.keyboard.press("Control+z")
        wait_for_step(page, address, step)
    assert corners(page, address) == pytest.approx([0.3, 0.3, 0.8, 0.9], abs=0.012)
    page.mouse.click(*on_stage(page, 0.05, 0.05))
    assert marks(page, "grip") == [], "a press beside all regions selects none"
    assert state(page, address)["step"] == 3, "and changes none"


def test_the_cells_that_a_region_counts_as_are_outlined_while_it_is_drawn_moved_and_resized(
    page, address, image
):
    open_image(page, image)
    page.click('label:has-text("Look here")')
    steps = [((0.1, 0.1), (0.4, 0.4)), ((0.25, 0.25), (0.65, 0.65)), ((0.5, 0.5), (0.1, 0.1))]
    before = []
    for step, (at, to) in enumerate(steps, 1):
        page.mouse.move(*on_stage(page, *at))
        page.mouse.down()
        page.mouse.move(*on_stage(page, *to), steps=4)
        outlined = marks(page, "cells")
        assert state(page, address)["step"] == step - 1, "the server knows nothing of it"
        page.mouse.up()
        wait_for_step(page, address, step)
        page.wait_for_function("() => document.querySelectorAll('#marks .grip').length === 8")
        assert len(outlined) == 1 and outlined == marks(page, "cells") != before
        before = outlined
        page.click('label:has-text("Move")')


def test_a_region_dragged_far_stays_whole_on_the_image(page, address, image):
    open_image(page, image)
    draw(page, 0.2, 0.2, 0.5, 0.6)
    page.click('label:has-text("Move")')
    pull(page, (0.35, 0.4), (0.99, 0.99))
    wait_for_step(page, address, 2)
    box = corners(page, address)
    assert box == pytest.approx([0.7, 0.6, 1.0, 1.0], abs=0.01) and max(box) <= 1


def test_regions_by_keyboard_alone(page, address, image):
    open_image(page, image)
    draw(page, 0.2, 0.2, 0.4, 0.4)
    draw(page, 0.5, 0.5, 0.8, 0.8, tool="Not here")
    page.focus("#stage")
    page.keyboard.press("l")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    assert len(marks(page, "grip")) == 8
    for key in ("Shift+ArrowRight", "Shift+ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    wait_for_step(page, address, 3)
    assert corners(page, address) == pytest.approx([0.24, 0.205, 0.44, 0.405], abs=0.01), (
        "one step for all arrows"
    )
    for key in ("b", "r", "Shift+ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    wait_for_step(page, address, 4)  # when the keys rest
    assert corners(page, address, 1) == pytest.approx([0.5, 0.5, 0.78, 0.78], abs=0.01)
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Escape")
    assert state(page, address)["step"] == 4, "Escape puts it back"
    page.keyboard.press("Delete")
    wait_for_step(page, address, 5)
    assert [one["kind"] for one in state(page, address)["edits"]["boxes"]] == ["positive"]
    assert page.evaluate("document.activeElement.id") == "stage"
    page.focus('button[aria-label="Move or resize region 1"]')
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "stage" and len(marks(page, "grip")) == 8


def test_a_region_is_tied_to_a_concept_in_one_step(page, address, image):
    open_image(page, image)
    draw(page, 0.1, 0.1, 0.6, 0.6, tool="Not here")
    choice = page.locator('select[aria-label="Region 1 counts for"]')
    assert choice.input_value() == ""
    choice.focus()
    assert choice.locator("option").all_inner_texts() == ["all findings", *CONCEPTS]
    choice.select_option(CONCEPTS[2])
    wait_for_step(page, address, 2)
    tied = state(page, address)
    assert tied["edits"]["boxes"][0]["concept"] == CONCEPTS[2]
    assert probabilities(page) == percents(tied)
    for k in (0, 1):
        concept = tied["concepts"][k]
        assert concept["contribution"] == concept["contribution_before"], "the others do not change"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Region 1 counts for"
    assert page.locator('select[aria-label="Region 1 counts for"]').input_value() == CONCEPTS[2]
    page.focus("#stage")
    page.keyboard.press("l")
    pull(page, (0.35, 0.35), (0.45, 0.45))
    wait_for_step(page, address, 3)
    assert state(page, address)["edits"]["boxes"][0]["concept"] == CONCEPTS[2], "moved, it stays tied"
    page.click("#undo")
    page.click("#undo")
    wait_for_step(page, address, 1)
    assert page.locator('select[aria-label="Region 1 counts for"]').input_value() == ""


def test_cells_have_the_colours_of_their_values_and_regions_show_those_that_count(page, address, image):
    open_image(page, image)
    page.click(f'.pick:has-text("{CONCEPTS[0]}")')
    page.check("#cells")
    with page.expect_response(lambda answer: "/maps?" in answer.url):
        draw(page, 0.05, 0.1, 0.7, 0.55)
    page.wait_for_timeout(300)  # painted after the answer
    settle(page)
    now = state(page, address)
    height, width = now["map"]["height"], now["map"]["width"]
    session, best = now["session"], now["concepts"][0]["best_prototype"]
    shown = page.request.get(f"{address}api/sessions/{session}/maps?of=0.{best}").json()["maps"][0]
    palette = np.asarray(page.request.get(f"{address}api/model").json()["palette"])
    share = np.clip((np.asarray(shown["values"]) - shown["low"]) / (shown["high"] - shown["low"]), 0, 1)
    wanted = palette[np.floor(share * (len(palette) - 1) + 0.5).astype(int), 0].reshape(height, width)
    found = grey_pixels(page, "#heat").astype(int)
    assert found.shape == (height, width), "one pixel a cell"
    visible = share.reshape(height, width) > 0.02
    np.testing.assert_allclose(found[visible], wanted[visible], atol=8)  # colours under opacity are rounded
    left, top, right, bottom = now["safety"]["boxes"][0]["cells"]
    frame = page.locator("#stage").bounding_box()
    outlined = [left / width, top / height, (right + 1) / width, (bottom + 1) / height]
    scale = [frame["width"], frame["height"]] * 2
    assert marks(page, "cells")[0] == pytest.approx(np.multiply(outlined, scale).tolist(), abs=1)
    number = (right - left + 1) * (bottom - top + 1)
    assert page.inner_text(".boxrow .counts") == f"counts as {number} of {height * width} cells"
    assert "each in the colour of its value" in page.inner_text("#shown-map")
    page.uncheck("#cells")
    settle(page)
    assert grey_pixels(page, "#heat").shape == (256, 256)


@pytest.fixture
def touched(browser, address, image):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    open_image(page, image)
    settle(page)
    page.locator("#stage").scroll_into_view_if_needed()
    fingers = context.new_cdp_session(page)

    def touch(kind, *points):
        places = [
            dict(zip("xy", on_stage(page, *point), strict=True), id=i) for i, point in enumerate(points)
        ]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    yield page, touch
    assert problems == []
    context.close()


def test_two_fingers_zoom_and_one_moves_and_resizes(touched, address):
    page, touch = touched
    fitted = float(page.inner_text("#zoom")[:-1])
    touch("touchStart", (0.4, 0.5), (0.6, 0.5))
    for spread in (0.15, 0.2, 0.25, 0.3):
        touch("touchMove", (0.5 - spread, 0.5), (0.5 + spread, 0.5))
    touch("touchEnd")
    settle(page)
    assert float(page.inner_text("#zoom")[:-1]) == pytest.approx(3 * fitted, rel=0.05)
    assert page.evaluate("visualViewport.scale") == 1, "the image, and not the page"
    page.tap("#zoom-fit")
    page.tap('label:has-text("Look here")')
    touch("touchStart", (0.2, 0.2))
    for at in (0.3, 0.4, 0.5):
        touch("touchMove", (at, at))
    touch("touchEnd")
    page.wait_for_selector(".boxrow")
    settle(page)
    assert corners(page, address) == pytest.approx([0.2, 0.2, 0.5, 0.5], abs=0.01)
    page.locator("#stage").scroll_into_view_if_needed()
    touch("touchStart", (0.52, 0.53))  # a finger is no needle
    for at in (0.6, 0.7, 0.82):
        touch("touchMove", (at, at))
    touch("touchEnd")
    wait_for_step(page, address, 2)
    assert corners(page, address) == pytest.approx([0.2, 0.2, 0.8, 0.79], abs=0.02)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_under_a_crop_cells_lie_on_what_the_model_sees_and_a_region_beside_it_is_put_back(browser, tmp_path):
    service = Service(bright_model("crop"), name="bright", limits=Limits())
    address, stop = run_server(create_app(service, Access(max_bytes=2**20)))
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    (tmp_path / "wide.png").write_bytes(png(block_image(WIDE)))
    open_image(page, tmp_path / "wide.png")
    page.check("#cells")
    page.locator(".pick").first.click()
    settle(page)
    frame = state(page, address)["map"]["frame"]
    assert 0 < frame[0] < frame[2] < 1, "the ends of the longer side are not seen"
    stage, heat = page.locator("#stage").bounding_box(), page.locator("#heat").bounding_box()
    found = [(heat["x"] - stage["x"]) / stage["width"], heat["width"] / stage["width"]]
    assert found == pytest.approx([frame[0], frame[2] - frame[0]], abs=0.005)
    draw(page, 0.4, 0.3, 0.5, 0.6)
    page.click('label:has-text("Move")')
    before = marks(page, "box")
    pull(page, (0.45, 0.45), (0.06, 0.45))
    page.wait_for_selector('#problem:has-text("beside the central square")')
    settle(page)
    assert marks(page, "box") == before, "as the server has it"
    assert state(page, address)["step"] == 1
    context.close()
    stop()
