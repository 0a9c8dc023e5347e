"""Work that would hold up the event loop: one thread each, and a bounded number of calls that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class BusyError(RuntimeError):
    """As many calls wait as may: come again."""


class Worker:
    """Calls one after the other in one thread, off the event loop.

    Args:
        name: of the thread.
        places: calls that run or wait at once.
    """

    def __init__(self, name: str, *, places: int) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._free = threading.BoundedSemaphore(places)

    async def run(self, call: Callable[[], Result]) -> Result:
        """The call's result, or what it raised.

        Raises:
            BusyError: no place is free.
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
        """Forget what waits, and wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)
