"""`gpu_check.sh`: a clear line where there is no GPU; with stand-ins for card and Python, all its steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"
STEPS = ("gpu_versions.py", "-m pytest", "bench/gpu.py")
CARD = "NVIDIA A100-SXM4-40GB, 570.86, 40960 MiB"


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def check(tmp_path: Path, *, card: str | None = CARD, failing: str = "", **env: str):
    """Run the script with a card of that name and a Python that notes its calls and fails at one of them."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if card is not None:
        executable(programs / "nvidia-smi", f"#!/bin/sh\necho '{card}'\n")
    else:
        executable(programs / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    note = f'#!/bin/sh\necho "$PYTHONPATH $*" >> "{tmp_path}/calls"\necho "output of $*"\n'
    fails = f'case "$*" in *"{failing}"*) exit 1;; esac\n' if failing else ""
    python = executable(programs / "noting-python", note + fails)
    return subprocess.run(
        [str(SCRIPT), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHON": str(python), **env},
    )


def wheels(tmp_path: Path) -> str:
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "deepspeed-0.19.8-py3-none-any.whl").touch()
    return str(folder)


def test_without_a_gpu_it_says_so_and_leaves_nothing(tmp_path):
    done = check(tmp_path, card=None)
    assert done.returncode == 2
    assert done.stderr.startswith("csr: error: no GPU: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "calls").exists()


def test_a_folder_without_wheels_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    done = check(tmp_path, WHEELS=str(tmp_path / "empty"))
    assert done.returncode == 2 and "empty: holds no *.whl" in done.stderr
    assert not (tmp_path / "out").exists()


def test_wheels_are_installed_beside_tests_and_benchmark_without_network(tmp_path):
    done = check(tmp_path, WHEELS=wheels(tmp_path))
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "pip install" in calls[0] and "--no-index" in calls[0] and f"{tmp_path}/out/site" in calls[0]
    assert [next(w for w in STEPS if w in c) for c in calls[1:]] == list(STEPS)
    assert all(call.startswith(f"{tmp_path}/out/site:{ROOT} ") for call in calls[1:])
    assert " -m gpu " in calls[2]
    machine = (tmp_path / "out" / "machine.txt").read_text()
    assert f"card      {CARD}" in machine and "output of scripts/gpu_versions.py" in machine
    assert "output of -m pytest" in (tmp_path / "out" / "tests.txt").read_text()
    assert "output of scripts/bench/gpu.py" in (tmp_path / "out" / "bench.log").read_text()


@pytest.mark.parametrize("failing, code", [("-m pytest", 1), ("bench/gpu.py", 1), ("gpu_versions", 2)])
def test_what_fails_decides_the_exit_code(tmp_path, failing, code):
    done = check(tmp_path, failing=failing, WHEELS=wheels(tmp_path))
    assert done.returncode == code and "csr: error: " in done.stderr
    calls = (tmp_path / "calls").read_text()
    assert ("bench/gpu.py" in calls) is (code == 1), "the benchmark runs where tests failed too"


def test_versions_end_with_a_line_where_torch_finds_no_gpu():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gpu_versions.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[1].startswith("torch     ") and lines[-1].startswith("error     torch finds no GPU")
