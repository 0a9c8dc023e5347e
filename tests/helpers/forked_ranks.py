"""Functions run on every rank of a gloo group of real, forked processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from csr.runtime import distributed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank_main(
    function: Callable[[], Any], rank: int, world: int, port: int, timeout_s: int, results: Any
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
    try:
        results.put((rank, function()))
    except Exception as error:
        results.put((rank, error))
    finally:
        torch.distributed.destroy_process_group()


def on_ranks(function: Callable[[], Any], world: int = 2, timeout_s: int = 60) -> list[Any]:
    """Return what the function returns (or raises) on each rank of a gloo group of real processes."""
    distributed.shut_down()  # a group that an engine's test opened here would be inherited
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_rank_main, args=(function, r, world, port, timeout_s, results))
        for r in range(world)
    ]
    for process in processes:
        process.start()
    got = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    return [got[r] for r in range(world)]
