"""Time of this rank in collectives: seconds on a CPU, events on the stream of a GPU; nothing waits for it.

It covers what DeepSpeed does in a step and what `csr.runtime.distributed` does there; waiting for slower
ranks is part of it. Collectives that run beside a backward pass (`overlap_comm`) count in full, though they
cost less.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import torch

# of DeepSpeed's communication backend
TIMED = (
    "all_reduce",
    "all_reduce_coalesced",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "broadcast",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_coalesced",
)


class CollectiveClock:
    """A context around a collective; nested ones count once. For one thread at a time."""

    def __init__(self) -> None:
        self._seconds, self._depth, self._began = 0.0, 0, 0.0
        self._open: Any = None
        self._events: list[tuple[Any, Any]] = []

    def __enter__(self) -> CollectiveClock:
        self._depth += 1
        if self._depth == 1:
            self._began = time.perf_counter()
            self._open = _event()
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        if self._open is None:
            self._seconds += time.perf_counter() - self._began
        else:
            self._events.append((self._open, _event()))
            self._open = None

    def is_pending(self) -> bool:
        """Return whether a GPU has not passed the end of the last collective yet; for any thread."""
        last = self._events[-1:]  # in one operation: the thread that computes adds to the list
        try:
            return bool(last) and not last[0][1].query()
        except RuntimeError:  # of a GPU that failed: the thread that computes meets it too
            return False

    def take(self) -> float:
        """Return seconds since the last call.

        Events that the GPU has not passed yet come with the next one.
        """
        passed: list[tuple[Any, Any]] = []
        waiting: list[tuple[Any, Any]] = []
        for pair in self._events:  # of several streams: a later one may be done first
            (passed if pair[1].query() else waiting).append(pair)
        self._events = waiting
        seconds = self._seconds + sum(first.elapsed_time(last) for first, last in passed) / 1000
        self._seconds = 0.0
        return seconds


def _event() -> Any:
    """Record a mark on the current stream; return None without a GPU in use."""
    if not torch.cuda.is_initialized():
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


IN_COLLECTIVES = CollectiveClock()


def watch(backend: Any) -> None:
    """Time the collectives of a communication backend (an object with methods named as in
    torch.distributed).
    """
    for name in TIMED:
        method = getattr(backend, name, None)
        if method is not None and not hasattr(method, "is_timed"):
            setattr(backend, name, _timed(method))


def _timed(method: Any) -> Any:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with IN_COLLECTIVES:
            return method(*args, **kwargs)

    setattr(call, "is_timed", True)
    return call
