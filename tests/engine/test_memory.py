"""Out of memory: told from other errors, and told in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from csr.engine import memory
from csr.runtime.errors import StoppedError

CPU = torch.device("cpu")
EXHAUSTED = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
]
OTHERS = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ValueError("CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", EXHAUSTED, ids=str)
def test_memory_that_ends_is_one_line_with_the_advice(error):
    with pytest.raises(StoppedError, match="^the memory on host .* free.* is too small: take less$"):
        with memory.exhaustion_told("take less", device=CPU):
            raise error


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_pass(error):
    with pytest.raises(type(error), match=str(error)):
        with memory.exhaustion_told("take less", device=CPU):
            raise error


def test_a_real_allocation_that_cannot_be_is_known():
    with pytest.raises(StoppedError, match="take less"):
        with memory.exhaustion_told("take less", device=CPU):
            torch.empty(2**60, dtype=torch.uint8)


def test_a_gpu_and_its_rank_are_named(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24 * 2**30)
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 24 * 2**30))
    with pytest.raises(StoppedError, match="^the GPU's memory of rank 3 on host .*24.00 GiB, 1.00 GiB free"):
        with memory.exhaustion_told("take less", device=torch.device("cuda", 0)):
            raise EXHAUSTED[0]
