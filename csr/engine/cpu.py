"""The CPU under this process: cores that it may use, their instructions, how memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from functools import lru_cache
from pathlib import Path

import torch

BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def instruction_sets() -> frozenset[str]:
    """Return instruction sets of the first processor, by Linux's names; none where they are not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (
        line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features")) and ":" in line
    )
    return frozenset(next(found, "").split())


def computes_bf16() -> bool:
    """Return whether products of bf16 matrices have instructions of their own; without, fp32's are faster."""
    return bool(instruction_sets() & BF16_INSTRUCTIONS)


def seconds_without_core() -> float:
    """Return seconds that the main thread was ready to run while other threads had the cores.

    NaN where the system does not count them (it is not Linux).
    """
    try:
        waited_ns = Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]
        return int(waited_ns) / 1e9
    except (OSError, IndexError, ValueError):  # a kernel without these statistics
        return math.nan


def share_cores(num_ranks: int) -> None:
    """Divide the cores among the ranks of this host.

    No launcher does, and ranks that each take all are ten times slower.
    """
    share = max(1, cores() // num_ranks)
    if num_ranks > 1:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(share))  # every rank compiles
    if "OMP_NUM_THREADS" not in os.environ or os.environ.get("TORCHELASTIC_RUN_ID"):
        torch.set_num_threads(share)


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of giving them back: page faults cost a CPU step up to a third."""
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library: only speed is lost
        return
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, -1)  # read as unsigned, the largest there is: never


def give_back_memory() -> None:
    """Return to the system what `keep_freed_memory` kept.

    What comes next may need less, or another process more.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library keeps nothing of the kind
        ctypes.CDLL(None).malloc_trim(0)
