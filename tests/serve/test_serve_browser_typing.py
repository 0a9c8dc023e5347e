"""What a reader types outlives everything that keeps it from being saved; in a real headless Chromium."""

from __future__ import annotations

import json

import pytest
from browsing import open_image, state
from serving import png
from tiny_model import CONCEPTS

pytestmark = [pytest.mark.slow, pytest.mark.dist]
TEXT = {"reader": "Dr. A", "conclusion": "COPD", "comment": "left apex"}
REJECTED = '.concept[data-decision="rejected"]'


@pytest.fixture
def two(tmp_path):
    for i, name in enumerate("ab"):
        (tmp_path / f"{name}.png").write_bytes(png(seed=i + 1))
    return [tmp_path / "a.png", tmp_path / "b.png"]


def wait_open(page, name):
    page.wait_for_selector(f'#work:not([hidden]) #image-facts:has-text("{name}")')
    page.wait_for_selector("#prototypes tbody tr")


def open_two(page, two):
    page.set_input_files("#file", two)
    wait_open(page, "a.png")


def type_all(page, **texts):
    for name, text in texts.items():
        page.fill(f"#{name}", text)
    page.focus("#stage")


def typed(page):
    return {name: page.input_value(f"#{name}") for name in TEXT}


def break_notes(page):
    page.route("**/notes", lambda route: route.abort())


def mend_notes(page):
    page.wait_for_timeout(1500)  # what the typing has begun to send has failed too
    page.unroute("**/notes")
    page.problems.clear()  # the browser logs the requests that failed


def wait_for_notes(page, address, **notes):
    for _ in range(100):
        if state(page, address)["notes"] == {**TEXT, **notes}:
            return
        page.wait_for_timeout(50)
    assert state(page, address)["notes"] == {**TEXT, **notes}


def reject(page):
    page.click(f'button[aria-label="Reject {CONCEPTS[0]}"]')
    page.wait_for_selector(REJECTED)


def test_a_server_that_cannot_be_reached_erases_nothing_and_is_told_with_the_next_change(page, address, two):
    open_two(page, two)
    break_notes(page)
    type_all(page, **TEXT)
    page.wait_for_selector('#problem-text:has-text("does not respond")')
    assert typed(page) == TEXT
    mend_notes(page)
    assert state(page, address)["notes"]["comment"] == ""
    reject(page)
    wait_for_notes(page, address)
    assert typed(page) == TEXT and not page.is_visible("#problem")


def test_going_on_without_saving_is_asked_and_the_texts_come_back(page, address, two):
    open_two(page, two)
    break_notes(page)
    type_all(page, **TEXT)
    page.click("#next")
    page.wait_for_selector("#ask-dialog[open]")
    assert "does not respond" in page.inner_text("#ask-text")
    page.click("#ask-no")
    assert "a.png" in page.inner_text("#image-facts") and typed(page) == TEXT
    page.click("#next")
    page.wait_for_selector("#ask-dialog[open]")
    page.click("#ask-yes")
    wait_open(page, "b.png")
    assert typed(page) == {"reader": "Dr. A", "conclusion": "", "comment": ""}
    mend_notes(page)
    page.click("#previous")
    wait_open(page, "a.png")
    assert typed(page) == TEXT
    wait_for_notes(page, address)


@pytest.mark.parametrize("field", list(TEXT))
def test_leaving_with_any_unsaved_text_asks_and_a_reload_brings_it_back(page, two, field):
    open_two(page, two)
    break_notes(page)
    type_all(page, **{field: TEXT[field]})
    page.wait_for_selector('#problem-text:has-text("does not respond")')
    assert page.stays == []
    page.reload()
    assert len(page.stays) == 1
    wait_open(page, "a.png")
    assert page.input_value(f"#{field}") == TEXT[field]
    mend_notes(page)


def test_closing_with_unsaved_texts_asks_and_no_record_is_downloaded_without_them(page, two):
    open_two(page, two)
    break_notes(page)
    downloads = []
    page.on("download", lambda one: downloads.append(one))
    type_all(page, comment=TEXT["comment"])
    page.click("#download")
    page.wait_for_selector('#problem-text:has-text("does not respond")')
    page.click("#close")
    page.wait_for_selector("#ask-dialog[open]")
    page.click("#ask-no")
    assert page.input_value("#comment") == TEXT["comment"] and downloads == []
    mend_notes(page)


def test_marks_of_direction_in_pasted_text_are_left_out(page, address, two):
    open_two(page, two)
    type_all(page, **{**TEXT, "comment": "call \u202a+49 89\u202c or \u2067x\u2069\x0b"})
    page.click("#next")
    wait_open(page, "b.png")
    page.click("#previous")
    wait_open(page, "a.png")
    wait_for_notes(page, address, comment="call +49 89 or x")
    assert page.input_value("#comment") == "call +49 89 or x"


def test_another_tab_and_this_one_both_keep_what_they_wrote(page, address, two):
    open_two(page, two)
    session = state(page, address)["session"]
    theirs = {"reader": "Dr. B", "conclusion": "no COPD", "comment": ""}
    page.request.put(f"{address}api/sessions/{session}/notes", data=theirs)
    type_all(page, comment="written here", conclusion="COPD")
    page.wait_for_selector("#problem-reload:not([hidden])")
    assert typed(page) == {"reader": "", "conclusion": "COPD", "comment": "written here"}
    page.problems.clear()
    page.click("#problem-reload")
    page.wait_for_selector("#problem", state="hidden")
    both = {"reader": "Dr. B", "conclusion": "no COPD\nCOPD", "comment": "written here"}
    wait_for_notes(page, address, **both)
    assert typed(page) == both
    page.fill("#comment", "and more")
    page.focus("#stage")
    wait_for_notes(page, address, **{**both, "comment": "and more"})


def test_an_image_that_is_lost_on_the_way_to_another_is_shown_under_its_own_name(page, address, two):
    open_two(page, two)
    type_all(page, reader="Dr. A")
    session = state(page, address)["session"]
    for _ in range(100):
        if state(page, address)["notes"]["reader"]:
            break
        page.wait_for_timeout(50)
    page.fill("#comment", "left apex")
    page.request.delete(f"{address}api/sessions/{session}")
    page.click("#next")
    page.wait_for_selector('#info-text:has-text("this image was closed")')
    wait_open(page, "a.png")
    page.problems.clear()
    marked = page.locator("#list-rows [aria-current] .name").all_inner_texts()
    assert marked == ["a.png"] and page.inner_text("#list-count") == "1 of 2"
    assert page.input_value("#comment") == "left apex"
    page.click("#close")
    page.wait_for_selector("#ask-dialog[open]")
    assert "a.png" in page.inner_text("#ask-title")


def test_a_record_waits_for_an_image_of_the_list_whose_file_is_not_at_hand(page, address, two, tmp_path):
    open_image(page, two[0])
    reject(page)
    with page.expect_download() as downloading:
        page.click("#download")
    record = tmp_path / "record.json"
    downloading.value.save_as(record)
    page.click("#undo")
    page.wait_for_selector(REJECTED, state="detached")
    session = state(page, address)["session"]
    page.reload()
    wait_open(page, "a.png")
    page.request.delete(f"{address}api/sessions/{session}")
    page.reload()
    page.wait_for_selector('#state-title:has-text("a.png is not open any more")')
    assert "2 steps" in page.inner_text("#state-text")
    page.set_input_files("#file", record)
    page.wait_for_selector("#ask-dialog[open]")
    page.click("#ask-yes")
    page.wait_for_selector('#info-text:has-text("open that image, and its 1 step will be replayed")')
    assert "1 step" in page.inner_text("#state-text")
    page.set_input_files("#file", two[0])
    page.wait_for_selector('#info-text:has-text("1 step replayed")')
    page.wait_for_selector(REJECTED)
    assert state(page, address)["num_steps"] == len(json.loads(record.read_bytes())["steps"]) == 2
    page.problems.clear()
