"""The pages of an atlas in a browser, from the disk: ticks write a keep.csv that `csr refine` reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium
from tiny_model import CONCEPTS, K, M

from csr.explain.atlas.keep import read_keep
from csr.explain.neighbours import vector_names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(accept_downloads=True, viewport={"width": 390, "height": 800})
    errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert errors == []


def downloaded(page: Any, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename == "keep.csv"
    waiting.value.save_as(folder / "keep.csv")
    return folder / "keep.csv"


def kept(path: Path, model: Any) -> np.ndarray:
    notices: list[str] = []
    keep_KM = read_keep(
        path,
        concept_names=CONCEPTS,
        kept_KM=np.ones((K, M), dtype=bool),
        vector_KM=vector_names(model),
        say=notices.append,
    )
    assert notices == [], "the file names its model"
    return keep_KM


def test_ticks_of_two_pages_are_one_file_that_refine_reads(page, atlas, model, tmp_path):
    page.goto((atlas / "index.html").as_uri())
    assert downloaded(page, tmp_path).read_bytes() == (atlas / "keep.csv").read_bytes(), "nothing rejected"
    page.locator("input.keep[value='0.1']").first.uncheck()
    page.click("a[href^='concept_002.html']:not([href*='#'])")
    assert page.locator("#count").inner_text() == "1 prototype is rejected."
    page.locator("input.keep[value='2.3']").first.uncheck()
    assert not page.locator("#p3 input.keep").is_checked(), "one decision, wherever it is shown"
    page.click("#decisions a")
    expected = np.ones((K, M), dtype=bool)
    expected[0, 1] = expected[2, 3] = False
    assert (kept(downloaded(page, tmp_path), model) == expected).all()
    page.reload()
    assert page.locator("#count").inner_text() == "2 prototypes are rejected."
    page.click("#reset")
    assert kept(downloaded(page, tmp_path), model).all()


def test_decisions_travel_in_addresses_where_pages_share_no_storage(page, atlas, model, tmp_path):
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('none'); }})"
    )
    page.goto((atlas / "concept_000.html").as_uri())
    page.locator("#p2 input.keep").uncheck()
    page.click("nav >> nth=0 >> a[rel=next]")
    page.click("#decisions a")
    keep_KM = kept(downloaded(page, tmp_path), model)
    assert not keep_KM[0, 2] and keep_KM.sum() == K * M - 1


def test_a_hostile_address_decides_nothing(page, atlas):
    page.goto((atlas / "index.html").as_uri() + "?keep=9:<img src=x onerror=alert(1)>,0.1")
    assert page.locator("#count").inner_text() == "All prototypes are kept."


def test_a_picture_is_enlarged_by_keyboard_and_closed_again_with_its_boxes(page, atlas):
    page.goto((atlas / "concept_000.html").as_uri())
    picture = page.locator("main .pic:has(b[style*='width:100.00%'])").first
    picture.focus()
    page.keyboard.press("Enter")
    large = page.locator("#large .pic")
    assert large.bounding_box()["width"] > 1.3 * picture.bounding_box()["width"]
    frame, box = large.bounding_box(), large.locator("b").first.bounding_box()
    assert box["width"] == pytest.approx(frame["width"], abs=1), "the annotated box is as wide as the image"
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()
    page.uncheck("#known")
    assert not page.locator("main .pic b").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
