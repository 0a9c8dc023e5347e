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

CPU_SIDES = (256, 512, 1024, 2048)
GPU_SIDES = (4096, 8192)
CPU_PROBE, GPU_PROBE = 64, 1024  # on a GPU a smaller product is all launch
WARM_UP, BLOCKS = 3, 5
FEWEST_PRODUCTS = WARM_UP + BLOCKS
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
        seconds: spent on all of them together, about.
    """
    names = DTYPES if device.type == "cuda" else [name for name in DTYPES if name != "fp16"]
    return {name: fastest_product(device, DTYPES[name], seconds=seconds / len(names)) for name in names}


def sides_of(device: torch.device) -> tuple[int, ...]:
    """Return sides of matrices that keep a device busy, ascending."""
    return GPU_SIDES if device.type == "cuda" else CPU_SIDES


def fastest_product(device: torch.device, dtype: torch.dtype, *, seconds: float) -> float:
    """Return FLOP/s of the fastest square product that can be measured within about `seconds`.

    Sizes are tried from small to large, each only if it can be done in what is left: on a CPU without
    instructions for a precision one large product takes many seconds.
    """
    ends = time.perf_counter() + seconds
    sides = sides_of(device)
    probe = GPU_PROBE if device.type == "cuda" else CPU_PROBE
    best = rate = matmul_rate(device, dtype, side=min(probe, sides[0]), seconds=seconds / 50)
    for place, side in enumerate(sides):
        left = ends - time.perf_counter()
        product = 2.0 * side**3 / rate  # seconds, at the rate of the size before
        if FEWEST_PRODUCTS * product > left:
            break
        share = left / (len(sides) - place)
        rate = matmul_rate(device, dtype, side=side, seconds=max(0.0, share - WARM_UP * product))
        best = max(best, rate)
    return best


@torch.no_grad()
def matmul_rate(device: torch.device, dtype: torch.dtype, *, side: int, seconds: float) -> float:
    """Return FLOP/s of products of two square matrices: the best of blocks that take `seconds` together.

    The best, as a block in which another process had the cores says nothing about the device. At least
    `FEWEST_PRODUCTS` are done.
    """
    numbers = torch.Generator(device).manual_seed(0)  # of its own: training goes on with the same draws
    a, b = (torch.randn(side, side, device=device, generator=numbers).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def block(repeats: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b, out=out)
        _wait(device)
        return time.perf_counter() - began

    block(WARM_UP - 1)  # libraries choose their kernels
    repeats = max(1, round(seconds / BLOCKS / max(block(1), 1e-6)))
    return 2.0 * side**3 * repeats / min(block(repeats) for _ in range(BLOCKS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
