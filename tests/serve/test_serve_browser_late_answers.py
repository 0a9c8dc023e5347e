"""Answers that come late, in a real headless Chromium: what the reader did meanwhile stays where it was."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from browsing import drag, open_image, settle, state, wait_for_step
from serving import png
from tiny_model import CONCEPTS

pytestmark = [pytest.mark.slow, pytest.mark.dist]
PIXELS = """() => {
  const image = document.querySelector("#image");
  const canvas = Object.assign(document.createElement("canvas"), {
    width: image.naturalWidth, height: image.naturalHeight });
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""


@pytest.fixture
def two(page, tmp_path):
    """Two images in the list, the first one open."""
    for i, name in enumerate("ab"):
        (tmp_path / f"{name}.png").write_bytes(png(seed=i + 1))
    page.set_input_files("#file", [tmp_path / "a.png", tmp_path / "b.png"])
    wait_open(page, "a.png")


def wait_open(page, name):
    page.wait_for_selector(f'#work:not([hidden]) #image-facts:has-text("{name}")')
    page.wait_for_selector("#prototypes tbody tr")


def wait_until(page, condition):
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come to that")


@contextmanager
def held(page, pattern):
    """Hold requests back; they go on at the end, in their order."""
    requests = []
    page.route(pattern, lambda route: requests.append(route))
    yield requests
    for request in requests:
        request.continue_()
    page.unroute(pattern)


def notes_of(page, address, name):
    rows = json.loads(page.evaluate("sessionStorage.getItem('csr-list')"))
    (session,) = [row["session"] for row in rows if row["name"] == name]
    return page.request.get(f"{address}api/sessions/{session}").json()["notes"]


def test_neither_texts_nor_pixels_of_one_image_come_to_another(page, address, two):
    page.fill("#comment", "left apex of a")
    page.focus("#stage")
    wait_until(page, lambda: notes_of(page, address, "a.png")["comment"])
    pixels = page.evaluate(PIXELS)
    with held(page, "**/image") as requests:
        page.click("#next")
        wait_until(page, lambda: len(requests) == 1)  # b is on its way, the fields are still those of a
        page.click("#previous")
        wait_until(page, lambda: len(requests) == 2)
        requests.reverse()  # that of a comes first
    wait_open(page, "a.png")
    page.wait_for_timeout(300)
    settle(page)
    assert page.evaluate(PIXELS) == pixels and page.input_value("#comment") == "left apex of a"
    assert notes_of(page, address, "b.png")["comment"] == ""


def test_what_is_set_while_a_change_is_on_its_way_is_set(page, address, image):
    open_image(page, image)
    page.click('label:has-text("Look here")')
    drag(page, 0.2, 0.2, 0.5, 0.6)
    wait_for_step(page, address, 1)
    with held(page, "**/edits") as requests:
        page.click(f'button[aria-label="Reject {CONCEPTS[0]}"]')
        wait_until(page, lambda: requests)
        page.evaluate("""() => {
          const slider = document.querySelector("#alpha");
          slider.value = "60";
          for (const kind of ["input", "change"]) slider.dispatchEvent(new Event(kind, { bubbles: true }));
        }""")
    wait_for_step(page, address, 3)
    edits = state(page, address)["edits"]
    assert edits["alpha"] == 0.6 and edits["decisions"] == {CONCEPTS[0]: "rejected"}
    assert page.input_value("#alpha") == "60"


def test_a_change_belongs_to_the_image_that_it_was_made_on(page, address, two):
    with held(page, "**/edits") as requests:
        page.click(f'button[aria-label="Reject {CONCEPTS[0]}"]')
        wait_until(page, lambda: requests)
        page.click("#next")
        page.wait_for_timeout(300)
        assert "a.png" in page.inner_text("#image-facts"), "the page waits for what is on its way"
    wait_open(page, "b.png")
    assert page.locator("#list-rows .status").all_inner_texts() == ["edited", "opened"]
    assert state(page, address)["edits"]["decisions"] == {}


def test_a_region_that_keys_have_just_moved_is_moved_before_its_image_leaves(page, address, two):
    page.click('label:has-text("Look here")')
    drag(page, 0.2, 0.2, 0.5, 0.6)
    wait_for_step(page, address, 1)
    before = state(page, address)["edits"]["boxes"][0]["x_min"]
    page.focus("#stage")
    for key in ("l", "Escape", "b", "Shift+ArrowRight", "Alt+ArrowDown"):
        page.keyboard.press(key)
    wait_open(page, "b.png")
    page.click("#previous")
    wait_open(page, "a.png")
    assert state(page, address)["edits"]["boxes"][0]["x_min"] > before


def test_a_change_does_not_scroll_the_page_to_the_list(page, address, two):
    page.locator("#comment").scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    assert before > 50, "the list is out of sight"
    page.fill("#comment", "left apex")
    wait_until(page, lambda: state(page, address)["notes"]["comment"] == "left apex")
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") > 0.7 * before  # pictures that arrive change heights


def test_a_region_moved_by_keys_is_the_one_that_is_selected(page, address, image):
    open_image(page, image)
    for step, box in enumerate(((0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.8, 0.8)), 1):
        page.click('label:has-text("Look here")')
        drag(page, *box)
        wait_for_step(page, address, step)
    settle(page)
    first, second = state(page, address)["edits"]["boxes"]
    page.focus("#stage")
    for key in ("l", "Escape", "b"):
        page.keyboard.press(key)
    with held(page, "**/edits") as requests:
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("b")  # puts the first in force, selects the second
        wait_until(page, lambda: requests)
        page.keyboard.press("Shift+ArrowDown")
    wait_for_step(page, address, 4)
    one, two = state(page, address)["edits"]["boxes"]
    assert (one["y_min"], two["x_min"]) == pytest.approx((first["y_min"], second["x_min"]), abs=1e-6)
    assert one["x_min"] > first["x_min"] and two["y_min"] > second["y_min"]
