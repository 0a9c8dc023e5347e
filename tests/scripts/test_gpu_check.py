"""`gpu_check.sh`: a clear line where there is no GPU; with stand-ins for card and Python, all its steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
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


def check(
    tmp_path: Path, *, card: str | None = CARD, failing: str = "", argument: str | None = None, **env: str
):
    """Run the script with a card of that name and a Python that notes its calls and fails at one of them."""
    programs = tmp_path / "bin"
    programs.mkdir(parents=True)
    if card is not None:
        executable(programs / "nvidia-smi", f"#!/bin/sh\necho '{card}'\n")
    else:
        executable(programs / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    note = f'#!/bin/sh\necho "$PYTHONPATH $*" >> "{tmp_path}/calls"\necho "output of $*"\n'
    fails = f'case "$*" in *"{failing}"*) exit 1;; esac\n' if failing else ""
    python = executable(programs / "noting-python", note + fails)
    return subprocess.run(
        [str(SCRIPT), argument or str(tmp_path / "out")],
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


def test_help_says_how_wheels_are_made_and_needs_no_gpu(tmp_path):
    done = subprocess.run(
        [str(SCRIPT), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": "/bin"},
    )
    assert done.stdout.startswith("Tests and benchmark of csr on this machine's GPU")
    assert "pip wheel --no-deps --no-build-isolation -w DIR deepspeed" in done.stdout
    assert done.stdout.rstrip().endswith("2 nothing could be run.") and "fail()" not in done.stdout
    done = check(tmp_path / "made", argument="--nedes")
    assert done.returncode == 2 and done.stderr.startswith("csr: error: --nedes: give a folder, --needs")


def test_a_wheel_is_installed_for_the_run_alone_and_no_index_is_asked(tmp_path):
    """With the real pip, a wheel made here, and an index that cannot be reached."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "stand_in-1.0.dist-info"
    with zipfile.ZipFile(folder / "stand_in-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stand_in.py", "PLACE = __file__\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            f"{info}/RECORD", f"stand_in.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    programs = tmp_path / "programs"
    programs.mkdir()
    asks = f'exec {sys.executable} -c "import stand_in; print(stand_in.PLACE)"'
    python = executable(
        programs / "python", f'#!/bin/sh\ncase "$*" in *pip*) exec {sys.executable} "$@";; esac\n{asks}\n'
    )
    done = check(tmp_path, WHEELS=str(folder), PYTHON=str(python), PIP_INDEX_URL="http://127.0.0.1:9/")
    assert done.returncode == 0, done.stderr
    installed = tmp_path / "out" / "site" / "stand_in.py"
    assert (tmp_path / "out" / "tests.txt").read_text().strip() == str(installed)
    assert not installed.exists(), "it goes with the run"


class Lacking:
    """Packages as some Python has them."""

    def __init__(self, versions: dict[str, str]) -> None:
        self.versions = versions

    def version(self, name: str) -> str:
        if name not in self.versions:
            raise metadata.PackageNotFoundError(name)
        return self.versions[name]

    def requires(self, name: str) -> list[str]:
        self.version(name)
        return ["rare>=2", 'old; python_version < "3"', "typing-extensions>=4.14.1"]


def test_what_a_python_lacks_is_named_with_the_least_version(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import gpu_versions

    setup = (ROOT / "setup.cfg").read_text()
    own = re.findall(r"^    ([\w-]+)(?:>=\S+)?$", setup.split("install_requires =")[1].split("\n\n")[0], re.M)
    everything = dict.fromkeys([*own, "pytest", "rare", "typing-extensions"], "99.0")
    for lacks, told in (
        ({}, ""),
        ({"pydicom": None}, "pydicom>=3.0"),
        ({"torch": "2.5.1", "rare": "1.0"}, "torch>=2.6 rare>=2"),
        ({"deepspeed": None}, "deepspeed>=0.19.8 einops hjson msgpack ninja packaging py-cpuinfo pydantic"),
    ):
        versions = {name: v for name, v in {**everything, **lacks}.items() if v is not None}
        monkeypatch.setattr(gpu_versions.metadata, "version", Lacking(versions).version)
        monkeypatch.setattr(gpu_versions.metadata, "requires", Lacking(versions).requires)
        monkeypatch.setattr(sys, "argv", ["gpu_versions.py", "--needs"])
        assert gpu_versions.main() == 0
        found = capsys.readouterr().out.strip()
        assert found.startswith(told) if "deepspeed" in lacks else found == told


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
