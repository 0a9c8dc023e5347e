"""Tests of one GPU or more: each skips where there is none.

    CSR_TEST_DEVICE=cuda python -m pytest -m gpu
    CSR_GPU_TESTS=rehearse python -m pytest -m gpu tests/gpu

The second runs what does not need CUDA itself on the CPU: it shows that the tests run, and nothing of a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from csr.engine import process_group
from csr.runtime import distributed

REHEARSAL = os.environ.get("CSR_GPU_TESTS") == "rehearse"
WITHOUT = "no GPU: with one, CSR_TEST_DEVICE=cuda python -m pytest -m gpu"


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    """The GPU of these tests; the CPU in a rehearsal."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if not REHEARSAL:
        pytest.skip(WITHOUT)
    return torch.device("cpu")


@pytest.fixture
def cuda(gpu: torch.device) -> torch.device:
    """The GPU of a test that means nothing without one, in a rehearsal neither."""
    if gpu.type != "cuda":
        pytest.skip(WITHOUT)
    return gpu


@pytest.fixture(scope="session")
def joined() -> Iterator[None]:
    """The process group of one rank, as `csr train` opens it, with fp32 products in fp32."""
    if not process_group.started():
        distributed.adopt_launcher_environment()
        process_group.start(5.0)
    yield


@pytest.fixture
def exact() -> Iterator[None]:
    """Kernels whose sums have one order, as far as torch has them."""
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic
