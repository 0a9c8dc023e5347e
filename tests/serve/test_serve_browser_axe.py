"""axe-core finds no barrier on any screen, in light and dark."""

from __future__ import annotations

import pytest
from browsing import WAIT_MS, open_image
from serving import png
from tiny_model import CONCEPTS

pytestmark = [pytest.mark.slow, pytest.mark.dist]


def violations(page):
    """Return what axe-core objects to: rule, what it is about, the elements."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing"
    )
    found = axe.Axe().run(page).response["violations"]
    return [(one["id"], one["help"], [node["html"][:120] for node in one["nodes"]][:4]) for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_screen_has_a_barrier(browser, address, tmp_path, scheme, width):
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 860}, bypass_csp=True
    )
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    assert violations(page) == [], "start"
    (tmp_path / "a.png").write_bytes(png(seed=1))
    (tmp_path / "b.png").write_bytes(png(seed=2))
    (tmp_path / "bad.png").write_bytes(b"junk")
    open_image(page, tmp_path / "a.png")
    page.click(f'button[aria-label="Reject {CONCEPTS[0]}"]')
    page.wait_for_selector('.concept[data-decision="rejected"]')
    page.click("#what-if summary")
    page.wait_for_selector("#what-if-title:not(:empty)")
    assert violations(page) == [], "an image"
    page.set_input_files("#file", [tmp_path / "bad.png", tmp_path / "b.png"])
    page.wait_for_selector('#state-title:has-text("could not be opened")')
    assert violations(page) == [], "the work list, and a file that failed"
    page.click("#words")
    assert violations(page) == [], "the words"
    context.close()
