"""Arithmetic that must not run in half precision: cosines, spatial softmax, heads."""

from __future__ import annotations

import torch

HALF = (torch.float16, torch.bfloat16)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """Return fp16 and bf16 as fp32; fp32 and fp64 as they are."""
    return tensor.float() if tensor.dtype in HALF else tensor


def no_autocast(tensor: torch.Tensor) -> torch.autocast:
    """Open a region on the tensor's device where matrix products keep their operands' precision."""
    return torch.autocast(tensor.device.type, enabled=False)
