"""Shared by all tests: no network, few threads, and a tiny phantom data set drawn once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
if os.environ["DS_ACCELERATOR"] == "cpu":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("CSR_CACHE_DIR", tempfile.mkdtemp(prefix="csr-test-caches-"))

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


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
