"""Access: Host, Origin, token; headers of every answer; bodies that our page would never send."""

from __future__ import annotations

import json

import pytest
from serving import BINARY, box, opened, png, put
from tiny_model import CONCEPTS

from csr.serve.access import HEADERS, Access, host_name

TOKEN = "correct-horse-battery"
EDGE = box("positive", 0.5, 0.0, 0.5, 1.0)  # without any width


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:9000", "[::1]:8000", "localhost."]
)
def test_own_names_are_answered(client, host):
    assert client.get("/api/model", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "192.168.1.5",
        "",
        "127.0.0.1.evil.example",
    ],
)
def test_another_name_for_this_server_is_refused(client, host):
    for path in ("/", "/api/model", "/openapi.json", "/static/app.js"):
        assert client.get(path, headers={"host": host}).status_code == 421


def test_names_and_addresses_of_a_server_for_others():
    access = Access(names=frozenset({"csr.example.org"}), any_address=True)
    assert access.knows("csr.example.org") and access.knows("10.1.2.3") and access.knows("fe80::1")
    assert not access.knows("evil.example")
    assert host_name("[fe80::1]:80") == "fe80::1" and host_name("A.b:1") == "a.b"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8000"]
)
def test_requests_of_other_origins_are_refused(client, origin):
    session = opened(client)["session"]
    answer = client.post(f"/api/sessions/{session}/reset", headers={"origin": origin})
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    answer = client.options(
        "/api/images", headers={"origin": origin, "access-control-request-method": "POST"}
    )
    assert answer.status_code == 403


def test_requests_of_the_page_itself_pass(client):
    own = {"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    answer = client.post("/api/images", content=png(), headers={**BINARY, **own})
    assert answer.status_code == 201
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_picture_on_another_site_cannot_read_but_a_link_may_open_the_page(client):
    assert client.get("/api/model", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_a_token_is_required_by_everything_that_knows_an_image(serve):
    with serve(token=TOKEN) as client:
        assert client.get("/").status_code == 200, "the page asks for it"
        for wrong in (None, TOKEN, "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \u00e9"):
            raw = {} if wrong is None else {"authorization": wrong.encode("latin-1")}
            answer = client.get("/api/model", headers=raw)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert client.post("/api/images", content=png(), headers={**BINARY, **raw}).status_code == 401
        assert client.get(f"/api/model?token={TOKEN}").status_code == 401, "addresses are logged"
        assert client.get("/api/model", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert TOKEN not in repr(Access(token=TOKEN))


def test_every_answer_has_the_security_headers(client):
    for path in ("/", "/static/app.js", "/api/model", "/api/nothing", "/openapi.json"):
        headers = client.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
    refused = client.get("/", headers={"host": "evil.example"})
    assert refused.headers["content-security-policy"] == HEADERS["content-security-policy"]
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy and "http" not in policy and "default-src 'none'" in policy


@pytest.mark.parametrize(
    "body",
    [
        b'{"alpha": NaN}',
        b'{"alpha": 1e999}',
        b'{"alpha": -0.1}',
        b'{"alpha": "0.5"}',
        b'{"alfa": 0.5}',
        b"[]",
        b"{",
        b"\xff",
        b"[" * 50_000,
        b'{"boxes": [{}]}',
        b'{"decisions": {"Cavity": "maybe"}}',
        b'{"replacement": "x"}',
        json.dumps({"boxes": [EDGE]}).encode(),
        json.dumps({"boxes": [{**EDGE, "x_max": 1.5}]}).encode(),
        json.dumps({"boxes": [{**EDGE, "x_max": 1}] * 65}).encode(),
        json.dumps({"decisions": {"no such concept": "rejected"}}).encode(),
    ],
)
def test_edits_that_mean_nothing_are_refused_in_one_line_and_change_nothing(client, body):
    state = opened(client)
    answer = client.put(
        f"/api/sessions/{state['session']}/edits", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert "\n" not in answer.json()["detail"] and len(answer.text) < 500
    assert client.get(f"/api/sessions/{state['session']}").json() == state


def test_large_json_is_refused_unread(client):
    session = opened(client)["session"]
    assert put(client, session, decisions={CONCEPTS[0]: "x" * 300_000}).status_code == 413


def test_edits_need_their_content_type(client):
    session = opened(client)["session"]
    answer = client.put(
        f"/api/sessions/{session}/edits", content=b"{}", headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "maps?of=0",
        "maps?of=-1.0",
        "maps?of=99.0",
        "maps?of=0.99",
        "maps",
        "concepts/99",
        "concepts/-1",
        "maps?of=0.0&of=1e9.0",
        "concepts/x",
    ],
)
def test_places_that_are_not_there_are_refused(client, path):
    session = opened(client)["session"]
    assert client.get(f"/api/sessions/{session}/{path}").status_code in (404, 422)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/x",
        "/docs",
        "/redoc",
        "/static/",
    ],
)
def test_there_is_nothing_but_the_page(client, path):
    assert client.get(path).status_code in (404, 405)
