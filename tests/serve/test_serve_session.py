"""Undo, redo, reset, the record, and how long images stay in memory."""

from __future__ import annotations

import hashlib
import io
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from serving import box, opened, png, put, sent
from tiny_model import CONCEPTS, TARGETS, tiny_model, write_run

from csr import __version__
from csr.model.sharing.loading import load_model
from csr.serve import schemas
from csr.serve.limits import Limits
from csr.serve.open_sessions import GoneError, Sessions
from csr.serve.records.record import model_sha256
from csr.serve.records.schemas import Record, SessionState

REJECT = {"decisions": {CONCEPTS[0]: "rejected"}}
DRAW = {**REJECT, "boxes": [box("negative", 0.1, 0.1, 0.6, 0.6)]}


def post(client, session, action):
    return client.post(f"/api/sessions/{session}/{action}").json()


def numbers(state):
    return [(d["probability"], d["logit"]) for d in state["diagnoses"]], state["edits"]


def test_undo_and_redo_give_back_earlier_results_to_the_last_bit(client):
    first = opened(client)
    session = first["session"]
    second, third = put(client, session, **REJECT).json(), put(client, session, **DRAW).json()
    assert len({str(numbers(state)) for state in (first, second, third)}) == 3
    assert (third["can_undo"], third["can_redo"], third["step"]) == (True, False, 2)
    back = post(client, session, "undo")
    assert numbers(back) == numbers(second) and back["can_redo"]
    back = post(client, session, "undo")
    assert numbers(back) == numbers(first) and not back["can_undo"]
    assert numbers(post(client, session, "undo")) == numbers(first), "nothing lies before the first"
    assert numbers(post(client, session, "redo")) == numbers(second)
    assert numbers(post(client, session, "redo")) == numbers(third)
    assert numbers(post(client, session, "redo")) == numbers(third)
    assert client.get(f"/api/sessions/{session}").json()["edits"] == third["edits"]


def test_reset_leaves_out_all_edits_and_can_be_undone(client):
    first = opened(client)
    third = put(client, first["session"], **DRAW).json()
    assert numbers(post(client, first["session"], "reset")) == numbers(first)
    assert numbers(post(client, first["session"], "undo")) == numbers(third)


def test_an_edit_after_undo_forgets_what_was_undone(client):
    session = opened(client)["session"]
    put(client, session, **DRAW)
    post(client, session, "undo")
    state = put(client, session, **REJECT).json()
    assert not state["can_redo"] and state["step"] == 1


def test_the_same_edits_again_are_no_step(client):
    session = opened(client)["session"]
    assert put(client, session, **REJECT).json()["num_steps"] == 2
    assert put(client, session, **REJECT).json()["num_steps"] == 2


def test_the_record_has_hashes_times_and_every_step_with_its_result(client, model):
    session = opened(client)["session"]
    states = [put(client, session, **REJECT).json(), put(client, session, **DRAW).json()]
    states += [post(client, session, action) for action in ("undo", "redo", "reset")]
    answer = client.get(f"/api/sessions/{session}/record")
    record = answer.json()
    assert answer.headers["content-disposition"].startswith('attachment; filename="csr-session-')
    assert record["csr_version"] == __version__ and record["model"]["sha256"] == model_sha256(model)
    assert record["image"]["sha256"] == hashlib.sha256(png()).hexdigest()
    assert (record["image"]["height"], record["image"]["width"]) == (90, 140)
    steps = record["steps"]
    assert [s["action"] for s in steps] == ["open", "edit", "edit", "undo", "redo", "reset"]
    assert [s["time"] for s in steps] == sorted(s["time"] for s in steps)
    for step, state in zip(steps[1:], states, strict=True):
        assert step["edits"] == state["edits"] and step["result"]["diagnoses"] == state["diagnoses"]
    assert record["targets"] == list(TARGETS)
    Record.model_validate(record)


def test_answers_are_as_the_openapi_document_describes_them(client):
    state = opened(client)
    SessionState.model_validate(state)
    schemas.ModelFacts.model_validate(client.get("/api/model").json())
    at = f"/api/sessions/{state['session']}"
    schemas.Maps.model_validate(client.get(f"{at}/maps?of=0.0").json())
    schemas.Prototypes.model_validate(client.get(f"{at}/concepts/0").json())


def test_the_image_is_shown_as_it_is_displayed(client):
    session = opened(client)["session"]
    answer = client.get(f"/api/sessions/{session}/image")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).tobytes() == Image.open(io.BytesIO(png())).tobytes()


def test_the_hash_of_a_model_is_its_contents_and_not_its_place(tmp_path):
    model = tiny_model()
    run = write_run(tmp_path / "run", model)
    exported = model.save_pretrained(tmp_path / "export")
    assert model_sha256(load_model(run)) == model_sha256(load_model(exported)) == model_sha256(model)
    with torch.no_grad():
        model.task_head.linear.bias[0] += 1e-6
    assert model_sha256(model) != model_sha256(load_model(exported))
    reference = json.loads((exported / "config.json").read_text())
    reference["reference"]["target_thresholds"][TARGETS[0]] = 0.31
    (exported / "config.json").write_text(json.dumps(reference))
    assert model_sha256(load_model(exported)) != model_sha256(load_model(run)), "thresholds count"


def test_a_closed_session_is_gone(client):
    session = opened(client)["session"]
    assert client.delete(f"/api/sessions/{session}").status_code == 204
    for answer in (
        client.get(f"/api/sessions/{session}"),
        put(client, session),
        client.get(f"/api/sessions/{session}/record"),
    ):
        assert answer.status_code == 404 and "open the image again" in answer.json()["detail"]


def test_the_image_that_was_not_used_for_longest_is_closed_first(serve):
    with serve(Limits(max_sessions=2)) as client:
        first, second = opened(client)["session"], opened(client, png(seed=1))["session"]
        assert client.get(f"/api/sessions/{first}").status_code == 200
        third = opened(client, png(seed=2))["session"]
        assert [client.get(f"/api/sessions/{s}").status_code for s in (first, second, third)] == [
            200,
            404,
            200,
        ]
        assert len(client.service.sessions) == 2


def test_an_unused_session_times_out():
    now = [0.0]
    sessions = Sessions(Limits(timeout_s=10), clock=lambda: now[0])
    kept, left = SimpleNamespace(id="kept"), SimpleNamespace(id="left")
    sessions.add(kept)
    sessions.add(left)
    now[0] = 9.0
    assert sessions.get("kept") is kept
    now[0] = 12.0
    sessions.close_unused()
    assert len(sessions) == 1 and sessions.get("kept") is kept
    with pytest.raises(GoneError):
        sessions.get("left")


def test_a_full_record_is_reported_and_can_still_be_downloaded(client, monkeypatch):
    monkeypatch.setattr("csr.serve.session.MAX_STEPS", 3)
    session = opened(client)["session"]
    put(client, session, **REJECT)
    put(client, session, **DRAW)
    assert put(client, session).status_code == 409
    assert client.post(f"/api/sessions/{session}/undo").status_code == 409
    assert len(client.get(f"/api/sessions/{session}/record").json()["steps"]) == 3


def test_two_images_do_not_mix(client):
    one, two = opened(client), sent(client, png(seed=5)).json()
    put(client, one["session"], **DRAW)
    assert numbers(client.get(f"/api/sessions/{two['session']}").json()) == numbers(two)
