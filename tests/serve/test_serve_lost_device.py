"""A GPU that fails for good ends the server: a supervisor starts it again."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from serving import png, sent

LOST = RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")


def test_a_failed_gpu_is_refused_with_503_and_ends_the_process(serve, monkeypatch, capsys):
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *given: signals.append(given))

    def fail(*_):
        raise LOST

    with serve() as client:
        monkeypatch.setattr(client.service, "_opened", fail)
        answer = sent(client, png())
        assert client.service.failed
    assert answer.status_code == 503 and "the GPU failed" in answer.json()["detail"]
    assert signals == [(os.getpid(), signal.SIGTERM)]
    written = capsys.readouterr().err
    assert written == (
        "csr: error: the GPU failed, the server ends: CUDA error: device-side assert triggered\n"
    )


def test_another_error_ends_nothing(serve, monkeypatch):
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *given: signals.append(given))

    def fail(*_):
        raise RuntimeError("a bug")

    with serve() as client:
        monkeypatch.setattr(client.service, "_opened", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            sent(client, png())
        assert not client.service.failed
    assert signals == []


def test_a_full_gpu_refuses_the_request_and_the_server_stays(serve, monkeypatch):
    def fail(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with serve() as client:
        with monkeypatch.context() as patch:
            patch.setattr(client.service, "_opened", fail)
            answer = sent(client, png())
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "10"
        assert "no memory is left for this image" in answer.json()["detail"]
        assert sent(client, png()).status_code == 201
