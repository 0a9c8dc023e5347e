"""Threads for work that would hold up the event loop, each with a bounded number of calls that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


class BusyError(RuntimeError):
    """As many calls wait as may; trying again later helps."""


class Worker:
    """One thread that runs calls one after the other, off the event loop.

    Args:
        name: of the thread.
        places: calls that run or wait at once.
    """

    def __init__(self, name: str, *, places: int) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._free = threading.BoundedSemaphore(places)

    async def run(self, call: Callable[[], Result]) -> Result:
        """Return the call's result.

        Raises:
            BusyError: no place is free.
            Exception: any that the call raised.
        """
        if not self._free.acquire(blocking=False):
            raise BusyError
        try:
            future = self._pool.submit(call)
        except RuntimeError:  # shut down meanwhile
            self._free.release()
            raise BusyError from None
        # when the thread is done with it, not when the client has gone: it is the thread that is busy
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop the calls that wait, and wait for the one that runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def place(places: threading.BoundedSemaphore) -> Iterator[None]:
    """Hold one of some places.

    Raises:
        BusyError: no place is free.
    """
    if not places.acquire(blocking=False):
        raise BusyError
    try:
        yield
    finally:
        places.release()
