"""`python lost_rank.py RANK WHAT MODULE:FUNCTION NUMBER FLAGS..`: csr train, one rank of which gets lost.

When FUNCTION is called for the NUMBERth time on that rank, it is stopped (STOP), killed (KILL), waits for ever
in its main thread (HANG) or meets a bug (RAISE).
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import time
from typing import Any


def trap(what: str, place: str, number: int) -> None:
    module_name, path = place.split(":")
    owner: Any = importlib.import_module(module_name)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            lose(what)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def lose(what: str) -> None:
    time.sleep(2.5)  # the others have heard by now where this rank is
    if what == "RAISE":
        raise KeyError("a bug")
    if what == "HANG":
        time.sleep(3600)
    else:
        os.kill(os.getpid(), signal.Signals[f"SIG{what}"])


if __name__ == "__main__":
    rank, what, place, number, *flags = sys.argv[1:]
    from csr import train
    from csr.command import exit_process, run_command

    if os.environ["RANK"] == rank:
        trap(what, place, int(number))
    exit_process(run_command(train.main, flags))
