"""A busy server refuses at once, and an edit does not wait for another image's network."""

from __future__ import annotations

import asyncio
import threading

import pytest
from serving import opened, png, put, sent
from tiny_model import CONCEPTS

from csr.serve.limits import Limits
from csr.serve.worker import BusyError, Worker


def test_a_worker_runs_one_call_at_a_time_in_order_and_refuses_more_than_its_places():
    async def play():
        worker, go, order = Worker("test", places=2), threading.Event(), []
        first = asyncio.ensure_future(worker.run(lambda: (go.wait(30), order.append(1))))
        second = asyncio.ensure_future(worker.run(lambda: order.append(2)))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await worker.run(lambda: order.append(3))
        go.set()
        await asyncio.gather(first, second)
        await worker.run(lambda: order.append(4))
        worker.close()
        with pytest.raises(BusyError):
            await worker.run(lambda: None)
        return order

    assert asyncio.run(play()) == [1, 2, 4]


def test_a_place_is_free_again_when_the_thread_is_done_and_not_when_the_client_has_gone():
    async def play():
        worker, go = Worker("test", places=1), threading.Event()
        task = asyncio.ensure_future(worker.run(lambda: go.wait(30)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await worker.run(lambda: None)
        go.set()
        await asyncio.to_thread(worker.close)

    asyncio.run(play())


def test_an_error_of_a_call_is_raised_and_frees_its_place():
    async def play():
        worker = Worker("test", places=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await worker.run(lambda: 1 / 0)
        worker.close()

    asyncio.run(play())


def test_a_busy_network_answers_503_while_edits_are_answered(serve, monkeypatch):
    with serve(Limits(uploads=1)) as client:
        session = opened(client)["session"]
        go, began = threading.Event(), threading.Event()
        real = client.service._opened

        def slow(data, name):
            began.set()
            assert go.wait(60)
            return real(data, name)

        monkeypatch.setattr(client.service, "_opened", slow)
        answers = []
        sender = threading.Thread(target=lambda: answers.append(sent(client, png(seed=7))))
        sender.start()
        assert began.wait(60)
        busy = sent(client, png(seed=8))
        edited = put(client, session, decisions={CONCEPTS[0]: "rejected"})
        go.set()
        sender.join(60)
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert edited.status_code == 200
        assert answers[0].status_code == 201
        assert sent(client, png(seed=8)).status_code == 201, "the place is free again"
