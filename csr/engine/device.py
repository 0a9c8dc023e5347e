"""The device of this rank, and the arithmetic of inference on it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch

from csr.engine import cpu
from csr.runtime import distributed
from csr.runtime.errors import InputError

ALLOC_CONF_SINCE = (2, 9)  # torch that reads PYTORCH_ALLOC_CONF and calls PYTORCH_CUDA_ALLOC_CONF old
BF16_SINCE = (8, 0)  # compute capability with bf16 matrix products of its own: Ampere


def device_kind() -> str:
    """Return "cuda" where there is a GPU, else "cpu".

    DS_ACCELERATOR=cpu, which DeepSpeed obeys too, asks for the CPU all the same.
    """
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def local_device() -> torch.device:
    """Return the device of this rank.

    A rank that sees one GPU of its host takes it, whatever its local rank is.
    """
    if device_kind() == "cuda":
        return torch.device("cuda", distributed.local_rank() % torch.cuda.device_count())
    return torch.device("cpu")


def computes_bf16() -> bool:
    """Return whether this rank's device has bf16 matrix products of its own, not emulated ones."""
    if device_kind() == "cuda":
        return torch.cuda.get_device_capability(local_device()) >= BF16_SINCE
    return cpu.computes_bf16()


def use_true_fp32() -> None:
    """Compute fp32 products in fp32 on GPUs: TF32's 10 bits let cosines tie, and differ from the CPU's."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def is_mig(name: str) -> bool:
    """Return whether a GPU's name, as torch gives it, is that of a slice (MIG) of one."""
    return " MIG " in f" {name} "


def try_kernels() -> None:
    """Let cuDNN time its convolutions once for each shape and keep the fastest: training's shapes stay.

    Under `--deterministic` it does not: another kernel may win the next time.
    """
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()


def use_growing_segments() -> None:
    """Let CUDA's memory grow in place: blocks of steps of other sizes then leave no gaps behind.

    Nothing where the user has set the allocator's options, without a GPU, or once CUDA is initialised.
    """
    old, new = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"
    if device_kind() != "cuda" or sys.platform != "linux" or torch.cuda.is_initialized():
        return
    if old not in os.environ and new not in os.environ:
        major, minor = (int(part) for part in torch.__version__.split(".")[:2])
        os.environ[new if (major, minor) >= ALLOC_CONF_SINCE else old] = "expandable_segments:True"


def prefers_channels_last(device: torch.device) -> bool:
    """Return whether kernels of convolutions are kept channels last, as images are given to them."""
    return device.type == "cuda"


def is_broken_by(error: BaseException) -> bool:
    """Return whether an error leaves this process without a usable GPU (a fault in a kernel)."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


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
    use_true_fp32()
    if name == "auto":
        return torch.device(device_kind())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: give auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {name}: not on this machine; give auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs")
    return device
