"""Nothing is lost silently: work list, kept records, replays, other tabs; in a real headless Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browsing import WAIT_MS, open_image, probabilities, run_server, state
from serving import png
from tiny_model import CONCEPTS, TARGETS

from csr.serve.limits import Limits

pytestmark = [pytest.mark.slow, pytest.mark.dist]
REJECT = f'button[aria-label="Reject {CONCEPTS[0]}"]'
REJECTED = '.concept[data-decision="rejected"]'


def write(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


def reject(page):
    page.click(REJECT)
    page.wait_for_selector(REJECTED)


def wait_open(page, name):
    page.wait_for_selector(f'#work:not([hidden]) #image-facts:has-text("{name}")')
    page.wait_for_selector("#prototypes tbody tr")


def statuses(page):
    return dict(
        zip(
            page.locator("#list-rows .name").all_inner_texts(),
            page.locator("#list-rows .status").all_inner_texts(),
            strict=True,
        )
    )


def downloaded(page, button="#download"):
    with page.expect_download() as downloading:
        page.click(button)
    return Path(downloading.value.path()).read_bytes()


def focused(page):
    return page.evaluate("document.activeElement.tagName")


@pytest.fixture
def three(tmp_path):
    files = {"a.png": png(seed=1), "b.png": b"junk", "c.png": png(seed=3)}
    return [write(tmp_path, name, data) for name, data in files.items()]


def test_several_files_are_a_list_whose_edits_are_kept(page, address, three):
    page.set_input_files("#file", three)
    wait_open(page, "a.png")
    assert statuses(page) == {"a.png": "opened", "b.png": "new", "c.png": "new"}
    reject(page)
    page.wait_for_selector("#list-rows .edited")
    edited = probabilities(page)
    page.keyboard.press("Alt+ArrowDown")
    page.wait_for_selector('#state-title:has-text("b.png could not be opened")')
    assert not page.is_visible("#work") and page.is_disabled("#download"), "the image before is not shown"
    assert "no image that can be read" in statuses(page)["b.png"]
    page.problems.clear()  # the browser logs the refused request
    page.keyboard.press("Alt+ArrowDown")
    wait_open(page, "c.png")
    assert not page.is_visible(REJECTED) and page.inner_text("#list-count") == "3 of 3"
    page.click("#previous")
    page.click("#previous")
    wait_open(page, "a.png")
    assert page.is_visible(REJECTED) and probabilities(page) == edited
    downloaded(page)
    page.wait_for_selector("#list-rows .saved")
    assert statuses(page)["a.png"] == "record saved" and focused(page) != "BODY"
    row = page.inner_text("#list-rows li:first-child")
    first = max(state(page, address)["diagnoses"], key=lambda d: (d["present"], d["probability"]))
    page.click("#list-rows li:nth-child(2) button")
    page.wait_for_selector('#state-title:has-text("b.png could not be opened")')
    page.click("#close")
    wait_open(page, "c.png")
    assert list(statuses(page)) == ["a.png", "c.png"], "what failed can leave the list"
    page.click("#previous")
    wait_open(page, "a.png")
    assert first["name"] in row and ("needs a doctor" in row) == state(page, address)["needs_doctor"]


def test_leaving_with_edits_asks_and_with_a_saved_record_does_not(page, image):
    open_image(page, image)
    page.reload()
    page.wait_for_selector("#prototypes tbody tr")
    assert page.stays == []
    reject(page)
    page.wait_for_function("() => Object.keys(sessionStorage).some((key) => key.startsWith('csr-kept:'))")
    page.reload()
    page.wait_for_selector(REJECTED)
    assert len(page.stays) == 1
    downloaded(page)
    page.wait_for_timeout(200)
    page.reload()
    page.wait_for_selector(REJECTED)
    assert len(page.stays) == 1


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_session_that_is_gone_is_restored_and_the_page_says_why(page, address, image, reloaded):
    open_image(page, image)
    page.fill("#comment", "left apex")
    reject(page)
    page.wait_for_function("() => document.querySelector('#undo').disabled === false")
    before, session = probabilities(page), state(page, address)["session"]
    if reloaded:
        page.reload()
        page.wait_for_selector(REJECTED)
    page.request.delete(f"{address}api/sessions/{session}")
    page.click("#undo")
    if reloaded:
        page.wait_for_selector('#state-text:has-text("this image was closed")')
        assert "replayed on it: 1 step" in page.inner_text("#state-text")
        assert json.loads(downloaded(page, "#state-save"))["steps"][1]["action"] == "edit"
        page.set_input_files("#file", image)
    page.wait_for_selector("#info:not([hidden])")
    said = page.inner_text("#info-text")
    assert "this image was closed" in said.lower() and "every probability is as it was" in said
    page.wait_for_selector(REJECTED)
    page.problems.clear()  # the browser logs the refused request
    assert probabilities(page) == before and page.input_value("#comment") == "left apex"
    now = state(page, address)
    assert now["session"] != session and now["num_steps"] == 2 and now["restored"]["steps"] == 2
    page.click("#undo")
    page.wait_for_selector(REJECTED, state="detached")
    assert focused(page) != "BODY"


def test_a_record_file_is_replayed_on_its_image(page, address, image, tmp_path):
    open_image(page, image)
    reject(page)
    edited, record = probabilities(page), write(tmp_path, "record.json", downloaded(page))
    page.click("#close")
    page.wait_for_selector("#start:not([hidden])")
    other = write(tmp_path, "other.png", png(seed=8))
    open_image(page, other)
    page.set_input_files("#file", record)
    page.wait_for_selector("#info:not([hidden])")
    assert "not of other.png" in page.inner_text("#info-text"), "it says which differs"
    assert not page.is_visible(REJECTED)
    page.set_input_files("#file", image)
    page.wait_for_selector('#info-text:has-text("replayed")')
    page.wait_for_selector(REJECTED)
    assert probabilities(page) == edited
    page.click("#reset")
    page.wait_for_selector(REJECTED, state="detached")
    page.set_input_files("#file", record)
    page.wait_for_selector("#ask-dialog[open]")
    page.click("#ask-yes")
    page.wait_for_selector(REJECTED)
    assert state(page, address)["num_steps"] == 2 and probabilities(page) == edited
    assert not page.evaluate("document.querySelector('#ask-dialog').open")
    wrong = json.loads(record.read_bytes())
    wrong["steps"][1]["edits"]["decisions"] = {"Fracture": "rejected"}
    page.set_input_files("#file", write(tmp_path, "wrong.json", json.dumps(wrong).encode()))
    page.wait_for_selector('#problem-text:has-text("wrong.json: step 2 of the record")')
    page.set_input_files("#file", write(tmp_path, "junk.json", b"[1, 2"))
    page.wait_for_selector('#problem-text:has-text("junk.json: no record")')
    page.problems.clear()
    assert probabilities(page) == edited, "what is refused changes nothing"


def test_a_second_tab_does_not_overwrite_the_first(page, address, image):
    open_image(page, image)
    session = state(page, address)["session"]
    body = {"decisions": {CONCEPTS[2]: "confirmed"}}
    theirs = page.request.put(f"{address}api/sessions/{session}/edits", data=body).json()
    page.click(REJECT)
    page.wait_for_selector("#problem-reload:not([hidden])")
    assert "another tab" in page.inner_text("#problem-text")
    assert state(page, address)["edits"] == theirs["edits"]
    page.problems.clear()
    page.click("#problem-reload")
    page.wait_for_selector('.concept[data-decision="confirmed"]')
    assert not page.is_visible("#problem") and focused(page) != "BODY"
    reject(page)
    assert state(page, address)["edits"]["decisions"] == {CONCEPTS[0]: "rejected", CONCEPTS[2]: "confirmed"}


def test_the_17th_image_and_a_time_out_lose_no_edits(browser, serve, tmp_path):
    address, stop = run_server(serve(Limits(max_sessions=2, timeout_s=3)).app)
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    files = [write(tmp_path, f"{i}.png", png(seed=i)) for i in range(3)]
    page.set_input_files("#file", files)
    wait_open(page, "0.png")
    reject(page)
    edited = probabilities(page)
    page.wait_for_timeout(5000)  # longer than the time-out
    page.click("#undo")
    page.wait_for_selector(REJECTED, state="detached")
    assert not page.is_visible("#info"), "while the page is open the image stays"
    page.click("#redo")
    page.wait_for_selector(REJECTED)
    for name in ("1.png", "2.png"):
        page.click("#next")
        wait_open(page, name)
    page.click("#list-rows li:first-child button")
    wait_open(page, "0.png")
    page.wait_for_selector('#info-text:has-text("to make room")')
    assert page.is_visible(REJECTED) and probabilities(page) == edited
    context.close()
    stop()


def test_every_diagnosis_that_moved_is_told(page, address, image):
    open_image(page, image)
    before = {d["name"]: d["probability"] for d in state(page, address)["diagnoses"]}
    reject(page)
    after = {d["name"]: d for d in state(page, address)["diagnoses"]}
    said = page.inner_text("#live")
    for name in TARGETS:
        moved = 100 * (after[name]["probability"] - before[name])
        assert abs(moved) >= 0.05, "the case moves both"
        assert f"{name} score {after[name]['probability']:.2f}" in said
        assert f"{abs(moved):.1f} points" in said


def test_what_would_change_is_applied_as_one_step(page, address, tmp_path):
    for seed in range(12):
        open_image(page, write(tmp_path, f"{seed}.png", png(seed=seed)))
        wait_open(page, f"{seed}.png")
        page.evaluate("document.getElementById('what-if').open = true")
        page.wait_for_selector("#what-if-title:not(:empty)")
        page.wait_for_timeout(300)
        if page.locator("#what-if-rows button").count():
            break
    now = state(page, address)
    target = next(t for t, d in enumerate(now["diagnoses"]) if d["name"] in page.inner_text("#what-if-title"))
    promised = page.inner_text("#what-if-rows li:first-child b")
    page.click("#what-if-rows li:first-child button")
    page.wait_for_function("() => !document.getElementById('undo').disabled")
    after = state(page, address)
    assert after["diagnoses"][target]["present"] != now["diagnoses"][target]["present"]
    assert f"score {after['diagnoses'][target]['probability']:.2f}" == promised
    assert after["num_steps"] == now["num_steps"] + 1
    page.click("#undo")
    page.wait_for_function("() => document.getElementById('undo').disabled")
    assert state(page, address)["edits"] == now["edits"] and focused(page) != "BODY"


def test_notes_go_into_the_record_and_the_page_to_print(page, address, image, tmp_path):
    open_image(page, image)
    page.fill("#reader", "Dr. A")
    page.fill("#conclusion", "<b>COPD</b>")
    page.press("#conclusion", "Control+z")
    page.fill("#conclusion", "<b>COPD</b>")
    record = json.loads(downloaded(page))
    assert record["notes"] == {"reader": "Dr. A", "comment": "", "conclusion": "<b>COPD</b>"}
    page.fill("#reader", "Dr. B")
    page.fill("#comment", "typed just before")
    printed = write(tmp_path, "printed.html", downloaded(page, "#print"))
    shown = page.context.new_page()
    shown.goto(f"file://{printed}")
    assert "<b>COPD</b>" in shown.inner_text("body") and "Dr. B" in shown.inner_text("body")
    assert "typed just before" in shown.inner_text("body")
    shown.close()
    page.set_input_files("#file", write(tmp_path, "next.png", png(seed=4)))
    wait_open(page, "next.png")
    assert page.input_value("#reader") == "Dr. B" and page.input_value("#conclusion") == ""


def test_diagnoses_stay_in_sight_on_a_phone_and_research_only_everywhere(browser, address, three):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    assert page.is_visible("header .research")
    page.set_input_files("#file", three)
    wait_open(page, "a.png")
    page.locator("#replacements").scroll_into_view_if_needed()
    frame = page.locator("#glance").bounding_box()
    assert 0 <= frame["y"] < 5 and frame["height"] < 200
    assert page.is_visible("#glance .research") and page.inner_text("#glance").count("score") == len(TARGETS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_words_are_explained_where_they_stand_and_in_a_list(page, image):
    open_image(page, image)
    for word in ("logit", "cosine", "Importance outside"):
        assert word not in page.inner_text("main"), word
    page.click('button.term[data-term="called"]')
    assert "reaches the threshold" in page.inner_text("#term")
    page.keyboard.press("Escape")
    assert not page.is_visible("#term") and page.evaluate("document.activeElement.dataset.term") == "called"
    page.click("#words")
    assert page.locator("#words-list dt").count() > 10
    page.keyboard.press("Escape")
    assert "far below that of any image" in page.inner_text("#zero-warning")
