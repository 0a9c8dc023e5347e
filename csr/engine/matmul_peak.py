"""The fastest matrix products of this device, measured by every run and kept: what MFU is a share of."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from csr.engine.flops import DTYPES, fastest_product
from csr.runtime.files import write_json

_NAME = "matmul-peaks.json"
QUICK_S = 0.3


def file() -> Path | None:
    """Return the file of peaks: in CSR_CACHE_DIR, or in csr below the user's folder of caches.

    None for a user without a home, such as a bare user id in a container.
    """
    chosen, caches = os.environ.get("CSR_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) / _NAME
    if caches:
        return Path(caches) / "csr" / _NAME
    try:
        return Path.home() / ".cache" / "csr" / _NAME
    except RuntimeError:
        return None


def notice() -> str | None:
    """Return a line for a user whose peaks cannot be kept for want of a home, else None."""
    if file() is not None:
        return None
    return (
        "Notice: this user has no home folder: every run measures the speed of this device anew; set "
        "CSR_CACHE_DIR to a folder that keeps it"
    )


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the CPU's with the threads that this process uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


@functools.cache
def peak(device: torch.device, precision: str) -> float:
    """Return FLOP/s of the fastest square product in fp32, bf16 or fp16.

    Measured in a moment, or a faster one kept.

    A moment in which the machine is busy would give too little: the best of all runs counts.
    """
    return measured_again(device, precision)


def measured_again(device: torch.device, precision: str, *, seconds: float = QUICK_S) -> float:
    """Return the peak after another measurement: the best of this one and of those that are kept.

    To be called while this process computes nothing else.
    """
    rate = fastest_product(device, DTYPES[precision], seconds=seconds)
    return keep(device, {precision: rate})[precision]


def keep(device: torch.device, rates: dict[str, float]) -> dict[str, float]:
    """Remember peaks of a device where they are higher than what is known; returns what is known then.

    Where the file cannot be written nothing is remembered.
    """
    known, key = _read(), _key(device)
    before = known.get(key, {})
    best = {**before, **{name: max(rate, before.get(name, 0.0)) for name, rate in rates.items()}}
    if best != before:
        _write({**known, key: best})
    return best


def _write(known: dict[str, dict[str, float]]) -> None:
    target = file()
    if target is None:
        return
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, known)


def _key(device: torch.device) -> str:
    return f"{device_name(device)}, torch {torch.__version__}"


def kept_in(device: torch.device, rates: dict[str, float]) -> Path | None:
    """Return the file that holds these peaks of a device, or higher ones; None where it has none."""
    known = _read().get(_key(device), {})
    return file() if all(known.get(name, 0.0) >= rate for name, rate in rates.items()) else None


def _read() -> dict[str, dict[str, float]]:
    target = file()
    if target is None:
        return {}
    try:
        known = json.loads(target.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: _numbers(rates) for key, rates in known.items() if isinstance(rates, dict)}


def _numbers(rates: dict[str, Any]) -> dict[str, float]:
    return {name: float(rate) for name, rate in rates.items() if isinstance(rate, int | float)}
