"""Records: replayed to the same numbers, refused by what differs, annotated, and printed."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import pytest
from hostile import mutate
from serving import box, opened, png, put, sent
from tiny_model import CONCEPTS, TARGETS, with_one_diagnosis

from csr.serve.limits import MAX_READER, MAX_STEPS, MAX_TEXT, RECORD_BYTES, Limits
from csr.serve.records.words import step_in_words
from csr.serve.schemas import Box, Edits

JSON = {"content-type": "application/json"}
BOXES = [box("positive", 0.1, 0.1, 0.6, 0.6), box("negative", 0.5, 0.5, 0.9, 1.0)]
NOTES = {
    "reader": "Dr. <b>A</b>",
    "comment": "first line\n</p><script>alert(1)</script>",
    "conclusion": "COPD",
}


@pytest.fixture(scope="module")
def client(serve):
    with serve(Limits(max_sessions=1000)) as one:
        yield one


@pytest.fixture(scope="module")
def made(client):
    """A record of edits, undo, redo, reset and notes; its last state."""
    session = opened(client)["session"]
    put(client, session, decisions={CONCEPTS[0]: "rejected"})
    put(
        client, session, decisions={CONCEPTS[0]: "rejected", CONCEPTS[2]: "confirmed"}, boxes=BOXES, alpha=0.4
    )
    for action in ("undo", "undo", "redo", "reset", "undo"):
        client.post(f"/api/sessions/{session}/{action}")
    put(client, session, decisions={CONCEPTS[1]: "confirmed"}, boxes=BOXES[:1], replacement="zero")
    state = client.put(f"/api/sessions/{session}/notes", json=NOTES).json()
    return client.get(f"/api/sessions/{session}/record").json(), state


def replay(client, session, record, **options):
    data = record if isinstance(record, bytes) else json.dumps(record).encode()
    return client.post(f"/api/sessions/{session}/replay", content=data, headers={**JSON, **options})


def test_the_same_image_and_record_give_the_same_edits_and_numbers(client, made):
    record, last = made
    other = opened(client)["session"]
    put(client, other, decisions={CONCEPTS[2]: "rejected"})
    answer = replay(client, other, record).json()
    state = answer["state"]
    assert (answer["steps"], answer["same"], answer["largest_difference"]) == (
        len(record["steps"]),
        True,
        0.0,
    )
    for key in (
        "edits",
        "notes",
        "diagnoses",
        "concepts",
        "safety",
        "step",
        "num_steps",
        "can_undo",
        "can_redo",
    ):
        assert state[key] == last[key], key
    again = client.get(f"/api/sessions/{other}/record").json()
    assert again["steps"] == record["steps"], "with the times of then"
    assert again["restored"]["steps"] == len(record["steps"]) and record["restored"] is None
    undone = client.post(f"/api/sessions/{other}/undo").json()
    assert undone["edits"] == record["steps"][-2]["edits"], "history too"
    assert replay(client, other, again).status_code == 200, "a record of a replay is a record"


def test_what_the_page_keeps_of_a_record_is_enough(client, made):
    record, last = made
    brief = {key: record[key] for key in ("format", "format_version", "model", "image", "notes")}
    brief["steps"] = [
        {
            **{key: step[key] for key in ("time", "action", "edits")},
            "result": {
                "diagnoses": [
                    {key: d[key] for key in ("name", "probability")} for d in step["result"]["diagnoses"]
                ]
            },
        }
        for step in record["steps"]
    ]
    state = replay(client, opened(client)["session"], brief).json()["state"]
    assert state["diagnoses"] == last["diagnoses"] and state["edits"] == last["edits"]


def test_a_probability_that_was_changed_is_told_apart(client, made):
    record = copy.deepcopy(made[0])
    changed = record["steps"][2]["result"]["diagnoses"][0]
    wrong = 0.25 if changed["probability"] > 0.5 else 0.75
    difference, changed["probability"] = abs(wrong - changed["probability"]), wrong
    answer = replay(client, opened(client)["session"], record).json()
    assert not answer["same"] and answer["largest_difference"] == pytest.approx(difference)
    assert answer["state"]["restored"]["largest_difference"] == answer["largest_difference"]


def test_another_image_or_model_is_refused_and_named(client, made):
    record = copy.deepcopy(made[0])
    other = sent(client, png(seed=3)).json()
    answer = replay(client, other["session"], record)
    assert answer.status_code == 422 and "another image" in answer.json()["detail"]
    assert record["image"]["sha256"][:12] in answer.json()["detail"]
    assert "model" not in answer.json()["detail"].partition("nothing")[0]
    record["model"]["sha256"] = "0" * 64
    session = opened(client)["session"]
    detail = replay(client, session, record).json()["detail"]
    assert "another model" in detail and "another image" not in detail
    detail = replay(client, other["session"], record).json()["detail"]
    assert "another image" in detail and "another model" in detail
    assert client.get(f"/api/sessions/{session}").json()["num_steps"] == 1, "nothing was replayed"


def change(path, value):
    """Return a function that puts a value at a place of a record."""

    def apply(record):
        *parents, last = path
        at = record
        for key in parents:
            at = at[key]
        at[last] = value

    return apply


def without_first(record):
    del record["steps"][0]


def too_many(record):
    record["steps"] += [record["steps"][1]] * MAX_STEPS


HOSTILE = {
    "format": change(["format"], "csr-nearest"),
    "version": change(["format_version"], 99),
    "no steps": change(["steps"], []),
    "steps that are none": change(["steps"], {"0": 1}),
    "too many": too_many,
    "no open": without_first,
    "open twice": change(["steps", 1, "action"], "open"),
    "open with edits": change(["steps", 0, "edits", "alpha"], 0.9),
    "an action": change(["steps", 1, "action"], "import os"),
    "undo to elsewhere": change(["steps", 3, "edits", "alpha"], 0.7),
    "nothing to undo": change(["steps", 1, "action"], "undo"),
    "nothing to redo": change(["steps", 2, "action"], "redo"),
    "reset with edits": change(["steps", 6, "edits", "decisions"], {CONCEPTS[0]: "rejected"}),
    "a concept": change(["steps", 1, "edits", "decisions"], {"Fracture": "rejected"}),
    "a decision": change(["steps", 1, "edits", "decisions"], {CONCEPTS[0]: "perhaps"}),
    "an unknown edit": change(["steps", 1, "edits", "shell"], "rm"),
    "alpha": change(["steps", 1, "edits", "alpha"], 1e308),
    "a string for a number": change(["steps", 2, "edits", "boxes", 0, "x_min"], "0.1"),
    "a box outside": change(["steps", 2, "edits", "boxes", 0, "x_max"], 3.0),
    "a box without area": change(["steps", 2, "edits", "boxes", 0, "x_max"], 0.1),
    "too many boxes": change(["steps", 2, "edits", "boxes"], [BOXES[0]] * 65),
    "a time": change(["steps", 1, "time"], "<script>"),
    "a probability": change(["steps", 1, "result", "diagnoses", 0, "probability"], -0.5),
    "NaN": change(["steps", 1, "result", "diagnoses", 0, "probability"], float("nan")),
    "other diagnoses": change(["steps", 1, "result", "diagnoses", 0, "name"], "Gout"),
    "fewer diagnoses": change(["steps", 1, "result", "diagnoses"], []),
    "no hash": change(["model", "sha256"], "../../etc/passwd"),
    "a long comment": change(["notes", "comment"], "x" * (MAX_TEXT + 1)),
    "a control character": change(["notes", "comment"], "\x1b[31m"),
    "turned text": change(["notes", "reader"], "\u202egpj"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_that_cannot_be_is_refused_and_changes_nothing(client, made, name):
    record = copy.deepcopy(made[0])
    assert record["steps"][6]["action"] == "reset"
    HOSTILE[name](record)
    first = opened(client)
    before = put(client, first["session"], decisions={CONCEPTS[2]: "rejected"}).json()
    answer = replay(client, first["session"], record)
    assert answer.status_code == 422, answer.text
    detail = answer.json()["detail"]
    assert len(detail) < 400 and "Fracture" not in detail and "passwd" not in detail
    assert client.get(f"/api/sessions/{first['session']}").json() == before


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"steps": ' * 10_000]
)
def test_bytes_that_are_no_record_are_refused(client, data):
    answer = replay(client, opened(client)["session"], data)
    assert answer.status_code == 422 and "no record of csr serve" in answer.json()["detail"]


def test_damaged_records_are_refused_or_replayed_and_nothing_else(client, made):
    data = json.dumps(made[0]).encode()
    session = opened(client)["session"]
    codes = [replay(client, session, mutate(data, seed)).status_code for seed in range(60)]
    assert set(codes) <= {200, 422} and codes.count(422) > 10


def test_a_record_that_is_too_large_or_no_json_is_refused_before_it_is_read(client):
    session = opened(client)["session"]
    assert replay(client, session, b" " * (RECORD_BYTES + 1)).status_code == 413
    answer = client.post(
        f"/api/sessions/{session}/replay", content=b"{}", headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 415
    assert replay(client, "nobody", b"{}").status_code == 404


# notes


def test_notes_are_in_the_state_and_the_record_and_are_no_step(client):
    first = opened(client)
    state = client.put(f"/api/sessions/{first['session']}/notes", json=NOTES).json()
    assert state["notes"] == NOTES and state["num_steps"] == 1 and state["revision"] == first["revision"] + 1
    again = client.put(f"/api/sessions/{first['session']}/notes", json=NOTES).json()
    assert again["revision"] == state["revision"], "the same notes again change nothing"
    assert client.get(f"/api/sessions/{first['session']}/record").json()["notes"] == NOTES


@pytest.mark.parametrize(
    "notes",
    [
        {"reader": "x" * (MAX_READER + 1)},
        {"conclusion": "x" * (MAX_TEXT + 1)},
        {"comment": "a\x00b"},
        {"comment": "\u2066hidden"},
        {"comment": 7},
        {"diagnosis": "COPD"},
    ],
)
def test_notes_are_bounded_and_plain_text(client, notes):
    session = opened(client)["session"]
    assert client.put(f"/api/sessions/{session}/notes", json=notes).status_code == 422


# the printed page


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_printed_page_stands_alone_and_has_everything_in_words(client, made):
    record, last = made
    answer = client.get(f"/api/sessions/{last['session']}/record.html?target=1")
    assert answer.headers["content-disposition"] == (
        f'attachment; filename="csr-session-{record["image"]["sha256"][:12]}.html"'
    )
    page = Reader()
    page.feed(answer.text)
    text = " ".join(" ".join(page.words).split())
    assert "script" not in page.tags and not re.search(r"\son\w+=", re.sub(r'"[^"]*"', "", answer.text))
    assert page.addresses and all(one.startswith("data:image/png;base64,") for one in page.addresses)
    assert "Research only: not a medical device" in text
    for key in ("reader", "conclusion"):
        assert NOTES[key] in text
    assert "</p><script>alert(1)</script>" in text, "as it was written"
    for value in (
        record["model"]["sha256"],
        record["image"]["sha256"],
        record["csr_version"],
        record["opened"],
    ):
        assert value in text
    for d in last["diagnoses"]:
        row = f"{d['name']} score, no probability {d['before']['probability']:.1%} {d['probability']:.1%}"
        assert row in text
    assert f"What carries {TARGETS[1]}" in text
    assert f"rejected {CONCEPTS[0]}" in text and "drew region -2: not here, 50% to 90% from the left" in text
    assert len(re.findall(r"\d{4}-\d\d-\d\dT[\d:.]+Z", text)) == len(record["steps"]) + 2


def test_where_exactly_one_diagnosis_holds_no_threshold_of_one_is_told_or_printed(serve):
    with serve(of=with_one_diagnosis()) as client:
        state = opened(client)
        printed = client.get(f"/api/sessions/{state['session']}/record.html").text
    assert [d["threshold"] for d in state["diagnoses"]] == [None, None]
    assert sum(d["present"] for d in state["diagnoses"]) == 1 and all(
        c["threshold"] for c in state["concepts"]
    )
    assert "likeliest before" in printed and "likeliest from" not in printed and "called from" not in printed
    table = printed.split("Diagnoses, before and after")[1].split("</table>")[0]
    assert table.count("<th>") * len(TARGETS) == table.count("<td>"), "a cell below every head"


def test_the_printed_page_of_a_diagnosis_that_is_none_is_refused(client):
    session = opened(client)["session"]
    assert client.get(f"/api/sessions/{session}/record.html?target=2").status_code == 404
    assert client.get(f"/api/sessions/{session}/record.html?target=-1").status_code == 422
    assert client.get(f"/api/sessions/{session}/record.html").status_code == 200


def edits(decisions=None, boxes=(), alpha=0.2, replacement="median"):
    return Edits(
        decisions=decisions or {}, boxes=[Box(**one) for one in boxes], alpha=alpha, replacement=replacement
    )


@pytest.mark.parametrize(
    ("action", "before", "after", "words"),
    [
        ("open", None, edits(), ["opened the image"]),
        ("edit", edits(), edits({"Cavity": "rejected"}), ["rejected Cavity"]),
        ("edit", edits({"A": "rejected"}), edits({"A": "confirmed"}), ["confirmed A"]),
        ("undo", edits({"A": "rejected"}), edits(), ["undo: took back: A rejected"]),
        (
            "edit",
            edits(boxes=BOXES),
            edits(boxes=BOXES[1:]),
            ["removed region +1 (look here, 10% to 60% from the left, 10% to 60% from the top)"],
        ),
        (
            "edit",
            edits(boxes=BOXES[:1]),
            edits(boxes=[{**BOXES[0], "x_max": 0.7}]),
            ["changed region +1 to look here, 10% to 70% from the left, 10% to 60% from the top"],
        ),
        ("edit", edits(), edits(alpha=0.5), ["image outside the regions counts 50%, not 20%"]),
        (
            "edit",
            edits(),
            edits(replacement="zero"),
            ["scores that do not count become zero, as in the paper"],
        ),
        ("reset", edits({"A": "rejected"}), edits(), ["took back all edits"]),
    ],
)
def test_steps_are_told_in_words(action, before, after, words):
    assert step_in_words(action, before, after) == words
