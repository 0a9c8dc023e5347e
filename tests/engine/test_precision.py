"""`--precision auto` through the command: chosen by the CPU, kept by a run that goes on elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from train_command import flags, start

SHORT = {"epochs_stage1": "1", "epochs_stage2": "1", "epochs_stage3": "1", "precision": None}
# a machine has one kind of CPU: the other one is made up
ON_A_CPU = """
import sys
import csr.train
from csr.cli import exit_codes
from csr.engine import cpu
cpu.computes_bf16 = lambda: sys.argv[1] == "True"
sys.exit(exit_codes.run_command(csr.train.main, sys.argv[2:]))
"""
Told = Callable[..., tuple[int, str]]


@pytest.fixture
def told(phantom_folder: Path, tmp_path: Path) -> Told:
    """Runs the command on a CPU with or without bf16; its exit code, and the line on precision or the error."""

    def run(*more: str, has_bf16: bool, **changed: str | None) -> tuple[int, str]:
        given = flags(phantom_folder, tmp_path / "out", *more, **{**SHORT, **changed})
        done = start(sys.executable, "-c", ON_A_CPU, str(has_bf16), *given)
        lines = [line for line in done.stdout.splitlines() if line.startswith("Precision: ")]
        return done.returncode, lines[0] if lines else done.stderr

    return run


@pytest.mark.dist
@pytest.mark.parametrize("has_bf16, name", [(True, "bf16"), (False, "fp32")])
def test_auto_takes_what_the_cpu_is_made_for_and_a_flag_wins(has_bf16, name, told):
    code, line = told("--dry_run", has_bf16=has_bf16)
    assert code == 0 and line.startswith(f"Precision: {name} (there is no GPU"), line
    other = {"bf16": "fp32", "fp32": "bf16"}[name]
    code, line = told("--dry_run", has_bf16=has_bf16, precision=other)
    assert code == 0 and line == f"Precision: {other} (as --precision asks)", line


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("has_bf16, name", [(True, "bf16"), (False, "fp32")])
def test_an_unfinished_run_goes_on_in_its_precision_on_another_kind_of_cpu(has_bf16, name, told, tmp_path):
    assert told(has_bf16=has_bf16, exp_name="run")[0] == 0
    run = tmp_path / "out" / "run"
    assert json.loads((run / "config.json").read_text())["zero_stage"] == 0
    code, line = told("--resume", str(run), has_bf16=not has_bf16, exp_name="other")
    assert code == 0 and line == f"Precision: {name} (the unfinished run computes in it)", line
    (run / "results.json").unlink()
    code, line = told(has_bf16=not has_bf16, exp_name="run")
    assert code == 0 and line == f"Precision: {name} (the unfinished run computes in it)", line
    assert (run / "results.json").exists()
    code, line = told("--resume", str(tmp_path / "nowhere"), has_bf16=True, exp_name="third")
    assert code == 2 and "nowhere: holds no training checkpoint" in line
