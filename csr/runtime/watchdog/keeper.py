"""`python keeper.py PID SECONDS`.

A small process beside a rank that kills it once it was stopped for too long.

A stopped process can end neither itself nor be ended by SIGTERM, and a launcher waits for it for ever. Runs
on the standard library alone. It ends with the rank: their pipe (standard input) closes then.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

LOOK_EVERY_S = 1.0


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped; OSError if there is none."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "T"


def keep(pid: int, patience_s: float) -> None:
    """Return when the parent has ended.

    Kill it once it was stopped for so long while this process was not.
    """
    stopped_s, last = 0.0, time.monotonic()
    while not select.select([sys.stdin], [], [], LOOK_EVERY_S)[0] and os.getppid() == pid:
        now = time.monotonic()
        passed, last = min(now - last, 2 * LOOK_EVERY_S), now
        stopped_s = stopped_s + passed if is_stopped(pid) else 0.0
        if stopped_s > patience_s:
            os.kill(pid, signal.SIGKILL)
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the rank's whole process group
    try:
        keep(int(sys.argv[1]), float(sys.argv[2]))
    except OSError:
        sys.exit(0)  # the parent has just ended
