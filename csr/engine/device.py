"""The device of this rank, and the arithmetic of inference on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from csr.runtime import distributed
from csr.runtime.errors import InputError


def device_kind() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def local_device() -> torch.device:
    if device_kind() == "cuda":
        return torch.device("cuda", distributed.local_rank() % torch.cuda.device_count())
    return torch.device("cpu")


@contextlib.contextmanager
def inference_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Turn gradients off and autocast to the half precision of training on."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"):
        yield


def pick_device(name: str = "auto") -> torch.device:
    """Return the device that a command computes on.

    Args:
        name: `auto` (a GPU if there is one), `cpu` or `cuda`, also with an index.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: give auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {name}: not on this machine; give auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs")
    return device
