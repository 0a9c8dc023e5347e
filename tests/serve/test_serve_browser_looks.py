"""The page in a real headless Chromium: names of controls, contrast in light and dark, small screens."""

from __future__ import annotations

import pytest
from browsing import WAIT_MS, open_image
from tiny_model import CONCEPTS

pytestmark = [pytest.mark.slow, pytest.mark.dist]
# contrast of every visible text with what is painted behind it (WCAG 2.1, 1.4.3)
CONTRAST = """() => {
  const parse = (text) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, :disabled, noscript, .unseen, .skip")) continue;
    let behind = element;
    const back = () => parse(getComputedStyle(behind).backgroundColor);
    while (back()[3] < 255 && behind !== document.documentElement) behind = behind.parentElement;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(back())];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([walker.currentNode.textContent.trim(), ratio.toFixed(2)]);
  }
  return poor;
}"""


def test_every_control_has_a_name(page, image):
    open_image(page, image)
    page.click("#others-title") if page.is_visible("#others-title") else None
    kinds = "button, input, select, output, a, canvas, img, summary"
    nameless = page.evaluate(
        """(kinds) => [...document.querySelectorAll(kinds)]
      .filter((e) => e.checkVisibility() && !e.closest("[aria-hidden=true]"))
      .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length))
      .filter((e) => !e.hasAttribute("alt"))
      .map((e) => e.outerHTML.slice(0, 80))""",
        kinds,
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark_and_fits_small_screens(browser, address, image, scheme):
    context = browser.new_context(color_scheme=scheme, viewport={"width": 320, "height": 740})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    assert page.evaluate(CONTRAST) == []
    open_image(page, image)
    page.click(f'button[aria-label="Reject {CONCEPTS[0]}"]')
    page.wait_for_selector('.concept[data-decision="rejected"]')
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    context.close()
