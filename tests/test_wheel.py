"""The wheel: it holds every file that csr reads, and csr finds them where no source tree is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
READ = """
import sys
import csr
from csr.cluster import slurm_job
from csr.engine.ds_config import DEFAULT_FILES, load_ds_config
assert csr.__file__.startswith(sys.argv[1]), csr.__file__
assert sorted(DEFAULT_FILES) == ["bf16", "fp16", "fp32"]
for precision in DEFAULT_FILES:
    load_ds_config(None, precision)
assert "srun" in slurm_job._body()
from csr.serve import app
assert (app._STATIC / "index.html").is_file() and str(app._STATIC).startswith(sys.argv[1])
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this tree, built from a copy: setuptools leaves a build folder by its sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("csr", "ds_configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(copy / "out"), str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (copy / "out").glob("csr-*.whl")
    return path


def test_every_file_of_the_package_but_its_readmes_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("csr/")}
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "csr"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: its files are not known")
    files = {
        name for name in listed.stdout.splitlines() if not name.endswith((".md", "csr/engine/ds_configs"))
    }
    files |= {f"csr/engine/ds_configs/{path.name}" for path in (ROOT / "ds_configs").glob("*.json")}
    assert files - packed == set()
    assert {"csr/cluster/train.sbatch", "csr/serve/static/index.html"} <= packed


def test_csr_from_the_wheel_finds_its_files(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "site")],
        env=env,
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
