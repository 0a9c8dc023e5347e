"""What this process makes of the CPU: how many cores it may use, which instructions they have, how memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import lru_cache
from pathlib import Path

import torch

BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def instruction_sets() -> frozenset[str]:
    """Instruction sets of the first processor, as Linux calls them; none where it cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (
        line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features")) and ":" in line
    )
    return frozenset(next(found, "").split())


def computes_bf16() -> bool:
    """Whether products of bf16 matrices have instructions of their own: without, they are slower than fp32's."""
    return bool(instruction_sets() & BF16_INSTRUCTIONS)


def share_cores(num_ranks: int) -> None:
    """Ranks that each take all cores are ten times slower; no launcher divides them."""
    if "OMP_NUM_THREADS" not in os.environ or os.environ.get("TORCHELASTIC_RUN_ID"):
        torch.set_num_threads(max(1, cores() // num_ranks))


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
    """Return to the system what `keep_freed_memory` kept: what comes next may need less, or another process more."""
    with contextlib.suppress(OSError, AttributeError):  # another C library keeps nothing of the kind
        ctypes.CDLL(None).malloc_trim(0)
