"""What keeps edits from being lost: revisions, pages that say they are open, and reasons for what is gone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from serving import opened, png, put
from tiny_model import CONCEPTS

from csr.runtime.errors import InputError
from csr.serve.edit_warnings import NOT_MEASURED, EditWarnings, read_edit_warnings
from csr.serve.limits import HEARTBEAT_S, MAX_ALIVE, Limits
from csr.serve.open_sessions import GoneError, Sessions

REJECT = {"decisions": {CONCEPTS[0]: "rejected"}}


def at(revision):
    return {"x-revision": str(revision)}


def test_a_change_of_an_older_state_is_refused_and_nothing_is_lost(client):
    first = opened(client)
    address, revision = f"/api/sessions/{first['session']}", first["revision"]
    mine = client.put(f"{address}/edits", json=REJECT, headers=at(revision)).json()
    assert mine["revision"] == revision + 1
    record = client.get(f"{address}/record").content
    replays = {"content": record, "headers": {**at(revision), "content-type": "application/json"}}
    answers = [
        client.put(f"{address}/edits", json={}, headers=at(revision)),
        client.put(f"{address}/notes", json={"reader": "B"}, headers=at(revision)),
        client.post(f"{address}/replay", **replays),
        *(client.post(f"{address}/{action}", headers=at(revision)) for action in ("undo", "redo", "reset")),
    ]
    for answer in answers:
        assert answer.status_code == 409 and answer.json()["reason"] == "revision"
        assert "another tab" in answer.json()["detail"]
    assert client.get(address).json() == mine
    assert client.post(f"{address}/undo", headers=at(revision + 1)).status_code == 200
    assert put(client, first["session"], **REJECT).status_code == 200, "without a revision, as before"


@pytest.mark.parametrize("value", ["-1", "one", "1.5", ""])
def test_a_revision_that_is_none_is_refused(client, value):
    session = opened(client)["session"]
    answer = client.put(f"/api/sessions/{session}/edits", json={}, headers={"x-revision": value})
    assert answer.status_code == 422


def test_every_change_raises_the_revision_and_reading_does_not(client):
    first = opened(client)
    address = f"/api/sessions/{first['session']}"
    seen = [first["revision"], put(client, first["session"], **REJECT).json()["revision"]]
    seen += [client.post(f"{address}/{action}").json()["revision"] for action in ("undo", "redo", "reset")]
    assert seen == list(range(seen[0], seen[0] + 5))
    assert client.get(address).json()["revision"] == seen[-1]


# how long images stay


def make(limits, *names):
    now = [0.0]
    sessions = Sessions(limits, clock=lambda: now[0])
    for name in names:
        sessions.add(SimpleNamespace(id=name, revision=1))
        now[0] += 1
    return sessions, now


def why(sessions, name):
    with pytest.raises(GoneError) as caught:
        sessions.get(name)
    return caught.value.reason, str(caught.value)


def test_an_open_page_keeps_its_images_and_not_for_ever():
    sessions, now = make(Limits(timeout_s=120, keep_s=1000), "held", "left")
    for _ in range(19):
        now[0] += 50
        sessions.hold(["held"])
    assert why(sessions, "left") == (
        "unused",
        "the server forgot this image after 2 minutes without use; open the image again",
    )
    assert sessions.hold(["held"]).open == {"held": 1}
    now[0] += 60
    answer = sessions.hold(["held", "nobody"])
    assert not answer.open
    assert {key: problem.reason for key, problem in answer.gone.items()} == {
        "held": "kept",
        "nobody": "unknown",
    }
    assert "after its last use" in answer.gone["held"].detail


def test_what_makes_room_is_first_what_no_page_holds():
    sessions, now = make(Limits(max_sessions=2), "held", "left")
    now[0] += 4 * HEARTBEAT_S
    sessions.hold(["held"])
    sessions.add(SimpleNamespace(id="third", revision=1))
    assert sessions.get("held").id == "held" and why(sessions, "left")[0] == "room"
    assert "it holds 2" in why(sessions, "left")[1]


def test_why_an_image_is_gone_is_told(serve):
    with serve(Limits(max_sessions=1)) as client:
        first, second = opened(client), opened(client, png(seed=1))
        assert client.get(f"/api/sessions/{first['session']}").json()["reason"] == "room"
        client.delete(f"/api/sessions/{second['session']}")
        assert client.get(f"/api/sessions/{second['session']}").json()["reason"] == "closed"
        answer = put(client, "of-before-the-restart").json()
        assert answer["reason"] == "unknown" and "restarted" in answer["detail"]
        page = {"sessions": [first["session"], second["session"]]}
        gone = client.post("/api/alive", json=page).json()["gone"]
        assert [gone[one["session"]]["reason"] for one in (first, second)] == ["room", "closed"]


def test_a_place_that_the_model_does_not_have_is_no_session_that_is_gone(client):
    session = opened(client)["session"]
    assert client.get(f"/api/sessions/{session}/concepts/99").json()["reason"] == "place"
    assert client.get("/api/regions/99/0").json()["reason"] == "place"


@pytest.mark.parametrize(
    "body", [{}, {"sessions": "x"}, {"sessions": ["x"] * (MAX_ALIVE + 1)}, {"sessions": ["x" * 65]}]
)
def test_a_page_names_so_many_sessions_and_no_more(client, body):
    assert client.post("/api/alive", json=body).status_code == 422


def test_a_page_says_that_it_is_open_more_often_than_images_time_out(serve):
    for timeout_s, often in ((1800, HEARTBEAT_S), (60, 20)):
        with serve(Limits(timeout_s=timeout_s)) as client:
            assert client.get("/api/model").json()["heartbeat_s"] == often


# what edits do to diagnoses

SHA256 = 64 * "a"


def effect(kind, replacement, fixed, broken):
    counts = {"images": 151, "decisions": 1200, "fixed": fixed, "broken": broken}
    return {"kind": kind, "replacement": replacement, **counts}


def write(folder, *effects, **changes):
    value = {"format": "csr-edit-effects", "format_version": 1, "model_sha256": SHA256, "effects": effects}
    (folder / "edit_effects.json").write_text(json.dumps({**value, **changes}))
    return folder


def test_what_edits_did_is_told_in_numbers(tmp_path):
    folder = write(
        tmp_path,
        effect("concepts", "zero", 24, 54),
        effect("concepts", "median", 21, 13),
        effect("not here", "median", 4, 10),
        effect("boxes", "median", 3, 3),
    )
    found = read_edit_warnings(folder, model_sha256=SHA256)
    assert found.zero == (
        "Measured on labelled images with a simulated reader: rejected and confirmed findings towards zero "
        "fixed 24 and broke 54 of 1200 diagnoses, towards the usual scores fixed 21 and broke 13."
    )
    assert found.medians == (
        "Measured on labelled images with a simulated reader: regions to look at fixed 3 and broke 3 of 1200 "
        "diagnoses; regions that are ruled out fixed 4 and broke 10 of 1200 diagnoses. Expect no better "
        "diagnosis from them with this model."
    )


def test_edits_that_help_carry_no_warning(tmp_path):
    folder = write(tmp_path, effect("boxes", "median", 30, 23))
    assert read_edit_warnings(folder, model_sha256=SHA256) == NOT_MEASURED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "csr-run"}, "evaluate --simulate again"),
        ({"model_sha256": 64 * "b"}, "another model"),
        ({"model_sha256": None}, "another model"),
        ({"effects": 3}, "no list"),
        ({"effects": [{"kind": "boxes"}]}, "median or zero"),
    ],
)
def test_measured_edits_that_cannot_be_used_are_refused(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        read_edit_warnings(write(tmp_path, **changes), model_sha256=SHA256)


@pytest.mark.parametrize(("name", "again"), [("evaluation", " --overwrite"), ("nowhere", "")])
def test_an_evaluation_without_a_simulation_is_refused_with_the_command_that_makes_one(tmp_path, name, again):
    (tmp_path / "evaluation").mkdir()
    folder = tmp_path / name
    command = f"`csr evaluate .* --simulate concept --out {folder}{again}`"
    with pytest.raises(InputError, match=f"--evaluation {folder}: no edit_effects.json, .*{command}"):
        read_edit_warnings(folder, model_sha256=SHA256)


def test_the_page_is_told_both_warnings(serve):
    with serve(Limits(), warnings=EditWarnings("zero breaks", "regions break")) as client:
        facts = client.get("/api/model").json()
    assert (facts["zero_warning"], facts["edit_warning"]) == ("zero breaks", "regions break")
