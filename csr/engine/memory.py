"""Memory: what this host can still give, and what a piece of work takes at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import torch

from csr.engine.device import device_kind
from csr.runtime import distributed
from csr.runtime.errors import StoppedError
from csr.runtime.sizes import gib_text

# cuBLAS and cuDNN ask for memory of their own, and torch's allocator on a CPU has no class for it
OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "DefaultCPUAllocator",
)

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
V2, V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
OWN_GROUPS = Path("/proc/self/cgroup")


def free_host_bytes() -> int:
    """Return memory that this host can still give, within its control group and those around."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    for root, controller, names, cached_name in (
        (V2, "", ("memory.max", "memory.current"), "file"),
        (V1, "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_cache"),
    ):
        for folder in _groups(root, controller):
            files = [folder / name for name in (*names, "memory.stat")]
            if not all(f.is_file() for f in files):
                continue
            limit, used, parts = (f.read_text() for f in files)
            if limit.strip().isdigit():  # not "max"; version 1 writes a number beyond any memory
                cached = dict(line.split() for line in parts.splitlines())[
                    cached_name
                ]  # given back when needed
                free = min(free, max(0, int(limit) - int(used) + int(cached)))
    return free


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's control group and of those around it, up to the root.

    A batch system sets a job's limit on a group below the root; a container shows its own group as the root.

    Args:
        root: where the groups of a controller are mounted.
        controller: its name in version 1, nothing in version 2.
    """
    lines = OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.is_file() else []
    own = [
        path for _, names, path in (line.split(":", 2) for line in lines) if controller in names.split(",")
    ]
    paths = [PurePosixPath(path.lstrip("/")) for path in own]
    return [
        root,
        *(root / part for path in paths for part in (path, *path.parents) if ".." not in part.parts),
    ]


def free_gpu_bytes(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error means that a device or the host had no memory left for tensors."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


@contextlib.contextmanager
def exhaustion_told(advice: str, *, device: torch.device) -> Iterator[None]:
    """Turn running out of memory inside into one line.

    Args:
        advice: what to do about it.
        device: of the work.

    Raises:
        StoppedError: with rank, host, memory and the advice.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_exhausted(error):
            raise
        raise StoppedError(f"{_memory_of(device)} is too small: {advice}") from error


def _memory_of(device: torch.device) -> str:
    where = f"on host {distributed.host()}"
    if distributed.world_size() > 1:
        where = f"of rank {distributed.rank()} {where}"
    if device.type != "cuda":
        return f"the memory {where} ({gib_text(free_host_bytes())} free)"
    total = torch.cuda.get_device_properties(device).total_memory
    return f"the GPU's memory {where} ({gib_text(total)}, {gib_text(free_gpu_bytes(device))} free)"


def peak_of(work: Callable[[], object]) -> int:
    """Return bytes that this process needs at its peak while it does some work, above what it holds before.

    Raises:
        OSError: the system does not report it (it is not Linux, or /proc is not writable).
    """
    _give_back_freed()
    CLEAR.write_text("5")  # the record of the peak starts again
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def _give_back_freed() -> None:
    """Return freed memory to the system: work would use it again, and hide how much it needs."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library: it keeps less
        return


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.M)
    if found is None:
        raise OSError(f"{STATUS} has no {name}")
    return int(found.group(1)) * 1024


def memory_mib() -> float:
    """Return peak memory of this rank: of the GPU where one is used, else of the process."""
    if device_kind() == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # not on Windows; NaN is not logged
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
