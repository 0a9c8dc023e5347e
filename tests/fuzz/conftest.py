"""Fixtures: a tiny data set of two label tables and their images, to be damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import HEADER, refuse
from PIL import Image
from train_command import flags

import csr.train
from csr.model import CSR


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "data"
    rng = np.random.default_rng(0)
    for split, num in (("train", 12), ("test", 6)):
        (folder / split).mkdir(parents=True)
        rows = [HEADER]
        for n in range(num):
            Image.fromarray(rng.integers(0, 256, (9, 7), dtype=np.uint8)).save(
                folder / split / f"{split}{n}.png"
            )
            rows.append(f"{split}{n},R1,{n & 1},{n >> 1 & 1},{int(n % 3 == 0)},{int(n % 4 == 0)}")
        (folder / f"labels_{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """Return a copy of the data set, to be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))


@pytest.fixture
def refused(data: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs `csr train` on the data set, which must refuse it and write nothing."""

    def run(*named: str, more: tuple[str, ...] = (), **changed: str | Path) -> str:
        out = tmp_path / "out"
        arguments = flags(data, out, *more, **{"image_cache": "off", **changed})
        line = refuse(lambda: csr.train.main(arguments), *named, folder=tmp_path)
        assert not out.exists()
        return line

    return run


@pytest.fixture(scope="session")
def backbone() -> CSR:
    return CSR(num_concepts=2, num_classes=2, backbone_type="timm", model_name="test_resnet", image_size=64)
