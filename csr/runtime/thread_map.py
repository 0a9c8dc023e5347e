"""One function over many files in threads: results in order, memory bounded, a bar on a terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, total: int, title: str
) -> Iterator[Result]:
    """Yields `function(item)` of each item, in order.

    Threads suffice where the time goes into reading, decoding and hashing: those let go of the interpreter.

    Args:
        function: its first exception ends the iteration; what is under way is waited for.
        items: taken as they are needed, a few ahead.
        workers: threads, 1 or more.
        total: how many items there are, for the bar.
        title: of the bar, which is on stderr and only on a terminal.
    """
    from tqdm import tqdm

    todo = iter(items)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, desc=title, disable=None, leave=False) as bar:
        waiting.extend(pool.submit(function, item) for item in islice(todo, 4 * workers))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(todo, 1))
                bar.update()
                yield result
        finally:
            for future in waiting:
                future.cancel()
