"""The page in a real headless Chromium: open, reject, draw, undo, download, by pointer and by keyboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browsing import HOSTILE, WAIT_MS, drag, open_image, percents, probabilities, run_server, state
from serving import png
from tiny_model import CONCEPTS, TARGETS

from csr.serve.limits import Limits

pytestmark = [pytest.mark.slow, pytest.mark.dist]
TOKEN = "correct-horse-battery"


def test_open_reject_draw_undo_and_download(page, address, image):
    open_image(page, image)
    first = probabilities(page)
    assert first == percents(state(page, address)) and set(first) == set(TARGETS)
    assert HOSTILE in page.inner_text("#image-facts"), "a name is text"
    page.click(f'button[aria-label="Reject {CONCEPTS[0]}"]')
    page.wait_for_selector('.concept[data-decision="rejected"]')
    rejected = probabilities(page)
    assert rejected == percents(state(page, address)) != first
    page.click('label:has-text("Not here")')
    drag(page, 0.1, 0.2, 0.5, 0.7)
    page.wait_for_selector(".boxrow")
    drawn = state(page, address)["edits"]["boxes"]
    assert [b["kind"] for b in drawn] == ["negative"]
    assert [drawn[0][key] for key in ("x_min", "y_min", "x_max", "y_max")] == pytest.approx(
        [0.1, 0.2, 0.5, 0.7], abs=0.01
    )
    both = probabilities(page)
    assert both == percents(state(page, address))
    page.click("#undo")
    page.wait_for_selector(".boxrow", state="detached")
    assert probabilities(page) == rejected
    page.keyboard.press("Control+z")
    page.wait_for_selector('.concept[data-decision="rejected"]', state="detached")
    assert probabilities(page) == first and page.is_disabled("#undo")
    page.keyboard.press("Control+y")
    page.wait_for_selector('.concept[data-decision="rejected"]')
    page.click("#redo")
    page.wait_for_selector(".boxrow")
    assert probabilities(page) == both
    page.click("#reset")
    page.wait_for_selector(".boxrow", state="detached")
    assert probabilities(page) == first
    with page.expect_download() as downloading:
        page.click("#download")
    record = json.loads(Path(downloading.value.path()).read_text())
    assert [s["action"] for s in record["steps"]] == [
        "open",
        "edit",
        "edit",
        "undo",
        "undo",
        "redo",
        "redo",
        "reset",
    ]
    assert record["image"]["name"] == HOSTILE
    assert downloading.value.suggested_filename == f"csr-session-{record['image']['sha256'][:12]}.json"


def test_everything_by_keyboard_alone(page, address, image):
    open_image(page, image)
    page.focus("#stage")
    page.keyboard.press("p")
    for key in (
        "Enter",
        "Shift+ArrowRight",
        "Shift+ArrowRight",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
    ):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_selector(".boxrow.positive")
    drawn = state(page, address)["edits"]["boxes"][0]
    assert [drawn[key] for key in ("x_min", "y_min", "x_max", "y_max")] == pytest.approx([0.5, 0.5, 0.7, 0.6])
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert len(state(page, address)["edits"]["boxes"]) == 1, "a cancelled box is none"
    reject = f'button[aria-label="Reject {CONCEPTS[1]}"]'
    page.click("#others-title") if not page.is_visible(reject) else None
    page.focus(reject)
    page.keyboard.press("Space")
    page.wait_for_selector(f'{reject}[aria-pressed="true"]')
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Reject {CONCEPTS[1]}", (
        "focus stays"
    )
    page.keyboard.press("Space")
    page.wait_for_selector(f'{reject}[aria-pressed="false"]')
    page.focus('button[aria-label="Remove region 1"]')
    page.keyboard.press("Enter")
    page.wait_for_selector(".boxrow", state="detached")
    assert page.evaluate("document.activeElement.id") == "stage", "focus is not lost"


def test_edits_made_faster_than_the_answers_come_are_all_in_force(page, address, image):
    open_image(page, image)
    page.evaluate("document.getElementById('others').open = true")
    page.evaluate(
        """(names) => names.forEach((name, i) => {
          const button = document.querySelector(`button[aria-label="Reject ${CSS.escape(name)}"]`);
          for (let times = 0; times <= i; times++) button.click();
        })""",
        list(CONCEPTS),
    )
    page.wait_for_selector(f'.concept[data-decision="rejected"] .name:has-text("{CONCEPTS[2][:5]}")')
    decided = {CONCEPTS[0]: "rejected", CONCEPTS[2]: "rejected"}
    assert state(page, address)["edits"]["decisions"] == decided, "once, twice and three times pressed"
    assert probabilities(page) == percents(state(page, address))


def test_evidence_shows_the_image_beside_the_training_region(page, image):
    open_image(page, image)
    page.wait_for_selector("#looks-like img[src^='blob:']")
    page.wait_for_selector(".concept .near[src^='blob:']")
    assert "0.900" in page.inner_text("#looks-like") and "near.png" not in page.inner_text("#looks-like")
    page.click("#prototypes tbody tr:nth-child(3) button")
    page.wait_for_selector("#prototypes tr.current:nth-child(3)")
    number = page.inner_text("#prototypes tr.current td:first-child")
    page.wait_for_selector(f'#shown-map:has-text("prototype {number}")')
    painted = page.evaluate(
        "[...document.getElementById('evidence').getContext('2d').getImageData(0, 0, 256, 256).data]"
        ".some((v, i) => i % 4 < 3 && v)"
    )
    assert painted


def test_a_dropped_file_is_opened_and_a_bad_one_is_reported(page, image):
    for name, data in (("bad.png", b"junk"), ("good.png", png())):
        page.evaluate_handle(
            """([name, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name));
          const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
            [name, list(data)],
        )
        page.wait_for_selector("#work:not([hidden])" if name == "good.png" else "#problem:not([hidden])")
        if name == "bad.png":
            assert "no image that can be read" in page.inner_text("#problem")
            assert page.inner_text("#problem").startswith(name)
            dimmed = page.evaluate("document.body.classList.contains('stale')")
            assert dimmed == page.is_visible("#work"), "another image on the page is dimmed"
            page.problems.clear()  # the browser logs the refused request
    assert not page.is_visible("#problem")


def test_a_reload_comes_back_to_the_session_and_close_forgets_it(page, address, image):
    open_image(page, image)
    page.click(f'button[aria-label="Confirm {CONCEPTS[0]}"]')
    page.wait_for_selector('.concept[data-decision="confirmed"]')
    page.reload()
    page.wait_for_selector('.concept[data-decision="confirmed"]')
    session = state(page, address)["session"]
    page.click("#close")
    page.click("#ask-no")
    assert page.is_visible("#work"), "edits are not lost without a question"
    page.click("#close")
    page.click("#ask-yes")
    page.wait_for_selector("#start:not([hidden])")
    assert page.request.get(f"{address}api/sessions/{session}").status == 404


def test_a_token_is_asked_for_and_leaves_the_address(browser, serve, image):
    address, stop = run_server(serve(Limits(), token=TOKEN).app)
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#token-dialog[open]")
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector('#token-problem:has-text("not correct")')
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#limits:not(:empty)")
    open_image(page, image)
    page.close()
    page = context.new_page()
    page.goto(f"{address}#token={TOKEN}")
    page.wait_for_selector("#limits:not(:empty)")
    assert page.url == address and not page.is_visible("#token-dialog")
    context.close()
    stop()
