"""`python lost_rank.py RANK WHAT MODULE:FUNCTION NUMBER FLAGS..`: csr train, one rank of which gets lost.

When FUNCTION is called for the NUMBERth time on that rank (or on `all`), it is stopped (STOP), killed (KILL),
waits for ever in its main thread (HANG), as for a collective that a GPU does not end (SPIN), or meets a bug
(RAISE).
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from types import SimpleNamespace

from killed_run import trap


def lose(what: str) -> None:
    time.sleep(2.5)  # by now the others know where this rank is
    if what == "RAISE":
        raise KeyError("a bug")
    if what == "HANG":
        time.sleep(3600)
    elif what == "SPIN":
        from csr.runtime.collective_time import IN_COLLECTIVES

        mark = SimpleNamespace(query=lambda: False, elapsed_time=lambda _: 0.0)
        IN_COLLECTIVES._events.append((mark, mark))
        while True:  # as the host does in a wait for CUDA
            pass
    else:
        os.kill(os.getpid(), signal.Signals[f"SIG{what}"])


if __name__ == "__main__":
    rank, what, place, number, *flags = sys.argv[1:]
    from csr import train
    from csr.cli.exit_codes import exit_process, run_command

    if rank in (os.environ["RANK"], "all"):
        trap(place, int(number), functools.partial(lose, what))
    exit_process(run_command(train.main, flags))
