"""The page of a model of which exactly one diagnosis holds: the likeliest is called, without thresholds."""

from __future__ import annotations

import pytest
from browsing import WAIT_MS, open_image, run_server, state
from tiny_model import TARGETS, with_one_diagnosis

pytestmark = [pytest.mark.slow, pytest.mark.dist]


def test_the_likeliest_is_called_and_no_threshold_of_a_diagnosis_is_spoken_of(browser, serve, image):
    address, stop = run_server(serve(of=with_one_diagnosis()).app)
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    open_image(page, image)
    likeliest = max(state(page, address)["diagnoses"], key=lambda d: d["probability"])["name"]
    assert page.locator(".diagnosis:has(.badge:visible) .name").all_inner_texts() == [likeliest]
    assert page.locator(".diagnosis .badge:visible").all_inner_texts() == ["likeliest"]
    assert page.locator(".diagnosis .threshold:visible").count() == 0
    titles = [page.locator(".diagnosis").nth(t).get_attribute("title") for t in range(len(TARGETS))]
    assert all(title.startswith("total ") for title in titles)
    diagnoses = page.inner_text('[aria-labelledby="diagnoses-title"]')
    assert "threshold" not in diagnoses and "the likeliest is called" in " ".join(diagnoses.split())
    assert page.inner_text("#live").split(". ", 1)[1].startswith(f"The likeliest: {likeliest}")
    page.click('button.term[data-term="called"]:visible')
    assert "calls the likeliest" in page.inner_text("#term")
    page.keyboard.press("Escape")
    page.evaluate("document.getElementById('what-if').open = true")
    page.wait_for_selector("#what-if-title:not(:empty)")
    assert "be the likeliest" in page.inner_text("#what-if-title")
    context.close()
    stop()
