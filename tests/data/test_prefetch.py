"""Batches arrive in order, from a thread or in turn; errors and waiting times reach the consumer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from csr.data.prefetch import Clock, arriving

CPU = torch.device("cpu")


def slow(seconds: float, threads: set[str], num: int = 3) -> Iterator[int]:
    for i in range(num):
        threads.add(threading.current_thread().name)
        time.sleep(seconds)
        yield i


@pytest.mark.parametrize("cached", [True, False])
def test_batches_come_in_order_and_only_those_of_images_from_a_thread(cached):
    clock, threads = Clock(), set()
    arrived = list(arriving(slow(0.02, threads), cached=cached, device=CPU, clock=clock))
    assert arrived == [0, 1, 2]
    assert threads == ({threading.current_thread().name} if cached else {"csr-loader"})
    assert 0.05 < clock.take("data") < 1.0, "nothing was done meanwhile: all of it was waited for"


def test_on_a_gpu_cached_features_are_loaded_ahead_too():
    threads: set[str] = set()
    assert list(arriving(slow(0, threads), cached=True, device=torch.device("cuda"), clock=Clock())) == [
        0,
        1,
        2,
    ]
    assert threads == {"csr-loader"}


@pytest.mark.parametrize("cached", [True, False])
def test_an_error_of_a_batch_is_raised_where_it_would_be_used(cached):
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    items = arriving(broken(), cached=cached, device=CPU, clock=Clock())
    assert next(items) == 1
    with pytest.raises(OSError, match="disk"):
        next(items)


def test_the_loading_thread_works_on_the_gpu_of_its_rank(monkeypatch):
    chosen: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: chosen.append((threading.current_thread().name, device))
    )
    device = torch.device("cuda", 3)
    assert list(arriving(iter([1]), cached=True, device=device, clock=Clock())) == [1]
    assert chosen == [("csr-loader", device)]
