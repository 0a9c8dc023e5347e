"""`--precision auto` through the command: chosen by the CPU, kept by a run that goes on elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from train_command import flags

import csr.train
from csr import cpu
from csr.command import run_command

SHORT = {"epochs_stage1": "1", "epochs_stage2": "1", "epochs_stage3": "1", "precision": None}


@pytest.fixture
def told(phantom_folder: Path, tmp_path: Path, monkeypatch, capsys):
    """Runs the command on a CPU with or without bf16; its code and the line on precision."""

    def run(*more: str, has_bf16: bool, **changed: str | None) -> tuple[int, str]:
        monkeypatch.setattr(cpu, "computes_bf16", lambda: has_bf16)
        code = run_command(csr.train.main, flags(phantom_folder, tmp_path / "out", *more, **{**SHORT, **changed}))
        printed = capsys.readouterr()
        lines = [line for line in printed.out.splitlines() if line.startswith("Precision: ")]
        return code, lines[0] if lines else printed.err

    return run


@pytest.mark.parametrize("has_bf16, name", [(True, "bf16"), (False, "fp32")])
def test_auto_takes_what_the_cpu_is_made_for_and_a_flag_wins(has_bf16, name, told):
    code, line = told("--dry_run", has_bf16=has_bf16)
    assert code == 0 and line.startswith(f"Precision: {name} (there is no GPU")
    other = {"bf16": "fp32", "fp32": "bf16"}[name]
    code, line = told("--dry_run", has_bf16=has_bf16, precision=other)
    assert code == 0 and line == f"Precision: {other} (--precision says so)"


@pytest.mark.parametrize("has_bf16, name", [(True, "bf16"), (False, "fp32")])
def test_an_unfinished_run_goes_on_in_its_precision_on_another_kind_of_cpu(has_bf16, name, told, tmp_path):
    assert told(has_bf16=has_bf16, exp_name="run")[0] == 0
    run = tmp_path / "out" / "run"
    assert json.loads((run / "config.json").read_text())["zero_stage"] == 0
    code, line = told("--resume", str(run), has_bf16=not has_bf16, exp_name="other")
    assert code == 0 and line == f"Precision: {name} (the unfinished run computes in it)"
    (run / "results.json").unlink()
    code, line = told(has_bf16=not has_bf16, exp_name="run")
    assert code == 0 and line == f"Precision: {name} (the unfinished run computes in it)"
    assert (run / "results.json").exists()
    code, line = told("--resume", str(tmp_path / "nowhere"), has_bf16=True, exp_name="third")
    assert code == 2 and "nowhere: holds no training checkpoint" in line
