"""`csr serve` as a command: complaints in one line, warnings, and a real process started and stopped."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from tiny_model import tiny_model

from csr.cli import serve
from csr.runtime.errors import InputError

TOKEN = "correct-horse-battery"
START_S = 180  # imports on a loaded machine


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return str(tiny_model().save_pretrained(tmp_path_factory.mktemp("served") / "tiny"))


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "uvicorn" else real(name, *a)
    )
    with pytest.raises(InputError, match=r'uvicorn: pip install -e "\.\[serve\]"'):
        serve.main(["model"])


def test_a_port_in_use_is_an_error(model_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: in use"):
            serve.main([model_folder, "--port", str(port)])


def test_a_port_that_was_bound_by_a_second_server_is_in_use():
    first = serve.listen("127.0.0.1", 0)
    with pytest.raises(InputError, match="in use"):
        serve.listen("127.0.0.1", first.getsockname()[1])
    first.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "0 to 65535"),
        (["--port", "x"], "whole number"),
        (["--max_mb", "nan"], "--max_mb"),
        (["--max_mb", "0"], "--max_mb"),
        (["--max_pixels", "1e6"], "whole number"),
        (["--max_pixels", "999999999"], "67108864"),
        (["--host", "no.such.host.invalid"], "--host"),
        (["--host", "192.0.2.1"], "--host"),
        (["--token", ""], "--token"),
        (["--token", "a b"], "--token"),
        (["--tok", "x"], "--tok"),
        (["--max_sessions", "0"], "--max_sessions"),
    ],
)
def test_flags_that_cannot_be_used_are_refused_before_the_model_is_loaded(flags, message):
    with pytest.raises(InputError, match=message):
        serve.main(["/no/such/model", "--port", "0", *flags])


def test_a_model_atlas_or_evaluation_that_is_not_there_is_an_error(model_folder, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        serve.main([str(tmp_path / "none"), "--port", "0"])
    with pytest.raises(InputError, match="nearest.json"):
        serve.main([model_folder, "--port", "0", "--atlas", str(tmp_path)])
    with pytest.raises(InputError, match="edit_effects.json"):
        serve.main([model_folder, "--port", "0", "--evaluation", str(tmp_path)])


def test_the_token_comes_from_the_flag_or_the_environment(monkeypatch):
    monkeypatch.delenv(serve.TOKEN_VARIABLE, raising=False)
    assert serve.read_token(None) is None
    monkeypatch.setenv(serve.TOKEN_VARIABLE, TOKEN)
    assert serve.read_token(None) == TOKEN and serve.read_token("other") == "other"
    monkeypatch.setenv(serve.TOKEN_VARIABLE, "not plain \u00e9")
    with pytest.raises(InputError, match=serve.TOKEN_VARIABLE):
        serve.read_token(None)


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_loopback_is_known(host, local):
    listener = serve.listen(host, 0)
    assert serve.is_loopback(listener) is local
    assert listener.proto == socket.IPPROTO_TCP, "asyncio switches Nagle's algorithm off for these only"
    listener.close()


@contextmanager
def served(*flags, env=None):
    """Run a real server; yield its process, its address, and its output up to the address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "csr", "serve", *flags, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )
    alarm = signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.alarm(START_S)
    output = ""
    try:
        for line in process.stdout:
            output += line
            if line.startswith("Open "):
                break
        match = re.search(r"http://[\w.]+:(\d+)/", output)
        assert match, output
        yield process, f"http://127.0.0.1:{match[1]}/", output
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)
        process.kill()
        process.wait()


def get(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_starts_answers_and_stops(model_folder, number):
    with served(model_folder) as (process, address, output):
        assert get(address)[0] == 200 and "warning" not in output
        assert json.loads(get(f"{address}api/model")[1])["name"] == "tiny"
        assert get(address, Host="evil.example")[0] == 421
        process.send_signal(number)
        rest, _ = process.communicate(timeout=START_S)
        assert (process.returncode, rest) == (0, "Stopped.\n")


@pytest.mark.dist
@pytest.mark.slow
def test_a_server_for_others_warns_without_a_token_and_keeps_a_token_to_itself(model_folder):
    with served(model_folder, "--host", "0.0.0.0") as (_, _, output):
        assert "csr: warning: 0.0.0.0 can be reached from other machines" in output
    with served(model_folder, "--host", "0.0.0.0", env={serve.TOKEN_VARIABLE: TOKEN}) as (
        process,
        address,
        output,
    ):
        assert "warning" not in output and TOKEN not in output
        assert get(f"{address}api/model")[0] == 401
        assert get(f"{address}api/model", Authorization=f"Bearer {TOKEN}")[0] == 200
        process.send_signal(signal.SIGINT)
        assert TOKEN not in process.communicate(timeout=START_S)[0]


@pytest.mark.parametrize("failed, code", [(False, 0), (True, 1)])
def test_a_server_whose_gpu_failed_leaves_with_1(model_folder, monkeypatch, capsys, failed, code):
    import uvicorn

    from csr.serve import service

    made: list[service.Service] = []
    monkeypatch.setattr(service.Service, "warm_up", lambda self: made.append(self))
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: setattr(made[0], "failed", failed))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert serve.main([model_folder, "--port", "0"]) == code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ("Stopped." in capsys.readouterr().out) is not failed
