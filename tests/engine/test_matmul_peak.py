"""Where the peak of a device is kept, and what `csr bench peak` says where nothing can be kept."""

from __future__ import annotations

import json
import pwd
from pathlib import Path

import pytest
import torch

from csr.cli import bench
from csr.engine import matmul_peak

CPU = torch.device("cpu")


@pytest.fixture
def homeless(monkeypatch):
    """A bare user id in a container: no HOME, no line in /etc/passwd."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "CSR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr("csr.engine.flops.measured_peaks", lambda device, seconds: {"fp32": 3e9})


def test_a_user_without_a_home_measures_and_keeps_nothing(homeless, fast, capsys):
    assert matmul_peak.file() is None and "CSR_CACHE_DIR" in str(matmul_peak.notice())
    assert matmul_peak.keep(CPU, {"fp32": 2e9}) == {"fp32": 2e9}
    assert bench.main(["peak"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "not kept: this user has no home folder; set CSR_CACHE_DIR to a folder of yours"


def test_a_named_folder_is_used_by_a_user_without_a_home(homeless, fast, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CSR_CACHE_DIR", str(tmp_path / "own"))
    assert matmul_peak.notice() is None
    assert bench.main(["peak"]) == 0
    assert f"kept in {tmp_path / 'own' / 'matmul-peaks.json'}" in capsys.readouterr().out
    (rates,) = json.loads((tmp_path / "own" / "matmul-peaks.json").read_text()).values()
    assert rates == {"fp32": 3e9}


def test_a_file_that_cannot_be_written_is_not_said_to_be_kept(fast, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CSR_CACHE_DIR", str(tmp_path / "file"))
    assert bench.main(["peak"]) == 0
    printed = capsys.readouterr().out
    assert f"not kept: {tmp_path / 'file'}/matmul-peaks.json cannot be written" in printed
    assert "kept in" not in printed
