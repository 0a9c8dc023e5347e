"""Model FLOPs of a step, and the fastest matrix products of this device: what MFU is made of.

MFU = model FLOPs of the images done per second / measured matmul peak. Model FLOPs are those of the
mathematics (2 for a multiplication with its addition), counted once: work that activation checkpointing
or padding repeats does not count.

Letters: B batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

CPU_SIDES = (1024, 2048)
GPU_SIDES = (4096, 8192)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def count_flops(run: Callable[[], object]) -> int:
    """Return FLOPs of matrix products, convolutions and attention in a call (forward and backward alike)."""
    # the counter does not know every fused attention kernel; the plain one is made of products
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return int(counter.get_total_flops())


def training_flops(stage: nn.Module, batch: Mapping[str, Any]) -> int:
    """Return model FLOPs of forward and backward on one micro batch; weights, gradients and statistics stay.

    Args:
        stage: a module whose `forward(batch)` returns an object with a scalar `loss`.
        batch: on the stage's device, as it is trained on.
    """
    trained = [p for p in stage.parameters() if p.requires_grad]
    was_training = stage.training
    stage.eval()  # the same products, but batch statistics do not move

    def run() -> None:
        # not backward(): an engine's hooks would take the gradients
        torch.autograd.grad(stage(batch).loss, trained, allow_unused=True)

    try:
        with torch.enable_grad():
            return count_flops(run)
    finally:
        stage.train(was_training)


def measured_peaks(device: torch.device, *, seconds: float = 1.0) -> dict[str, float]:
    """Return FLOP/s of the fastest square matrix product, by precision (fp16 on GPUs only).

    Args:
        device: CPU with this process's threads, or a GPU.
        seconds: spent on each precision and size.
    """
    names = DTYPES if device.type == "cuda" else [name for name in DTYPES if name != "fp16"]
    return {
        name: max(matmul_rate(device, DTYPES[name], side=side, seconds=seconds) for side in sides_of(device))
        for name in names
    }


def sides_of(device: torch.device) -> tuple[int, ...]:
    """Return sides of matrices that keep a device busy."""
    return GPU_SIDES if device.type == "cuda" else CPU_SIDES


@torch.no_grad()
def matmul_rate(device: torch.device, dtype: torch.dtype, *, side: int, seconds: float) -> float:
    """Return FLOP/s of products of two square matrices: the median of blocks that take `seconds` together."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def block(repeats: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b, out=out)
        _wait(device)
        return time.perf_counter() - began

    block(2)  # libraries choose their kernels
    repeats = max(1, round(seconds / 5 / max(block(1), 1e-6)))
    times = sorted(block(repeats) for _ in range(5))
    return 2.0 * side**3 * repeats / times[2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
