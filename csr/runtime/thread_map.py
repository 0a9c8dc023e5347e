"""One function over many items in threads: results in order, memory bounded.

Threads suffice where the time goes into reading, decoding and hashing: those release the interpreter lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # items per thread that are taken before their results are needed


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """Yield `function(item)` of each item, in order.

    Args:
        function: its first exception ends the iteration; running calls are waited for, others cancelled.
        items: taken as they are needed, `AHEAD` per thread in advance.
        workers: threads, 1 or more.
    """
    todo = iter(items)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        waiting.extend(pool.submit(function, item) for item in islice(todo, AHEAD * workers))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(todo, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def mapped(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, total: int, title: str
) -> Iterator[Result]:
    """Yield the results of `in_threads`, with a progress bar on stderr if that is a terminal.

    Args:
        function, items, workers: see `in_threads`.
        total: number of items, for the bar.
        title: of the bar.
    """
    from tqdm import tqdm

    with tqdm(total=total, desc=title, disable=None, leave=False) as bar:
        for result in in_threads(function, items, workers=workers):
            bar.update()
            yield result
