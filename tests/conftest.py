"""Shared by all tests: no network, few threads, and a tiny phantom data set drawn once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# "cuda": tests marked gpu find one, and tests with the fixture `device` compute there
ON_CUDA = os.environ.get("CSR_TEST_DEVICE", "cpu") == "cuda"
os.environ.setdefault("DS_ACCELERATOR", "cuda" if ON_CUDA else "cpu")
if ON_CUDA:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # products whose sums have one order
if os.environ["DS_ACCELERATOR"] == "cpu":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("CSR_CACHE_DIR", tempfile.mkdtemp(prefix="csr-test-caches-"))

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let `-m gpu` with CSR_TEST_DEVICE=cuda run the tests that take a device beside those of a GPU."""
    for item in items:
        if ON_CUDA and "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that CSR_TEST_DEVICE names (default: cpu), for tests whose numbers hold on any."""
    if not ON_CUDA:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("CSR_TEST_DEVICE=cuda, and torch finds no GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True  # some of these tests compare bits
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 24 test images of 64 pixels."""
    from csr.cli.phantom import main

    folder = tmp_path_factory.mktemp("phantom") / "data"
    assert main([str(folder), "--num_train", "48", "--num_test", "24", "--size", "64", "--seed", "5"]) == 0
    return folder


@pytest.fixture(scope="session")
def real_images() -> Path:
    folder = SHARED / "breast"
    if not folder.is_dir():
        pytest.skip(f"the real images are not at {folder}")
    return folder
