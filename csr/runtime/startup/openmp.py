"""OpenMP threads that sleep when they wait, so that other processes on the same cores can work.

torch's libgomp lets a thread at a barrier spin for milliseconds. Beside another busy process the thread that
is waited for has no core meanwhile: a step takes several times as long, and three times the CPU seconds
(scripts/bench/beside.py). A thousand turns are microseconds: enough where nothing else runs.
"""

from __future__ import annotations

import os
import sys

# libgomp reads the second, LLVM's and Intel's libraries the first
WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
OF_THE_USER = (*WAITING, "KMP_BLOCKTIME")


def wait_asleep() -> None:
    """Set how threads wait, here and in processes started from here, unless the user has.

    OpenMP reads it once, as torch is loaded: later nothing is set.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in OF_THE_USER):
        os.environ.update(WAITING)
