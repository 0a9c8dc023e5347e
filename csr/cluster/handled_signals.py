"""Signals that a command handles while the processes run that it has started."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, object], None]) -> Iterator[None]:
    """Call a handler for these signals while the block runs. Main thread only.

    A hang-up that is ignored, as under nohup, stays ignored. SIGINT is heeded even where it was ignored: a
    script's background jobs ignore it, and csr train heeds it there too.

    Args:
        numbers: of the signals.
        handler: called with the number and the frame.
    """
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heeded = [number for number in numbers if not (nohup and number == signal.SIGHUP)]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
