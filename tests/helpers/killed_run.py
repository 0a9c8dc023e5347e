"""`python killed_run.py WHAT MODULE:FUNCTION NUMBER FLAGS..`: csr train that meets its end at a chosen place.

When FUNCTION is called for the NUMBERth time, the process is killed (KILL), or gets signals (TERM, INT, USR1,
or several: INT+INT) and continues.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any


def trap(place: str, number: int, act: Callable[[], None]) -> None:
    """Act when `module:function` is called for the numberth time, then continue with the call."""
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
            act()
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def send(names: str) -> None:
    for name in names.split("+"):
        os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
        time.sleep(0.2)


if __name__ == "__main__":
    what, place, number, *flags = sys.argv[1:]
    from csr import train
    from csr.cli.exit_codes import exit_process, run_command

    trap(place, int(number), functools.partial(send, what))
    exit_process(run_command(train.main, flags))
