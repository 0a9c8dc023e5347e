"""`--precision`: chosen by flag, JSON and hardware; kept by a run that resumes elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from train_command import flags, start

from csr.engine.ds_config import load_ds_config
from csr.engine.precision import choose_precision
from csr.runtime.errors import InputError

FOLDER = Path(__file__).resolve().parents[2] / "ds_configs"

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
RunCommand = Callable[..., tuple[int, str]]


@pytest.fixture
def command(phantom_folder: Path, tmp_path: Path) -> RunCommand:
    """Return a function that runs the command on a CPU with or without bf16.

    It returns the exit code, and the line on precision or the error.
    """

    def run(*more: str, has_bf16: bool, **changed: str | None) -> tuple[int, str]:
        given = flags(phantom_folder, tmp_path / "out", *more, **{**SHORT, **changed})
        done = start(sys.executable, "-c", ON_A_CPU, str(has_bf16), *given)
        lines = [line for line in done.stdout.splitlines() if line.startswith("Precision: ")]
        return done.returncode, lines[0] if lines else done.stderr

    return run


@pytest.mark.dist
@pytest.mark.parametrize("has_bf16, name", [(True, "bf16"), (False, "fp32")])
def test_auto_takes_what_the_cpu_is_made_for_and_a_flag_wins(has_bf16, name, command):
    code, line = command("--dry_run", has_bf16=has_bf16)
    assert code == 0 and line.startswith(f"Precision: {name} (there is no GPU"), line
    other = {"bf16": "fp32", "fp32": "bf16"}[name]
    code, line = command("--dry_run", has_bf16=has_bf16, precision=other)
    assert code == 0 and line == f"Precision: {other} (as --precision asks)", line


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("has_bf16, name", [(True, "bf16"), (False, "fp32")])
def test_an_unfinished_run_resumes_in_its_precision_on_another_kind_of_cpu(has_bf16, name, command, tmp_path):
    assert command(has_bf16=has_bf16, exp_name="run")[0] == 0
    run = tmp_path / "out" / "run"
    assert json.loads((run / "config.json").read_text())["zero_stage"] == 0
    code, line = command("--resume", str(run), has_bf16=not has_bf16, exp_name="other")
    assert code == 0 and line == f"Precision: {name} (the unfinished run computes in it)", line
    (run / "results.json").unlink()
    code, line = command(has_bf16=not has_bf16, exp_name="run")
    assert code == 0 and line == f"Precision: {name} (the unfinished run computes in it)", line
    assert (run / "results.json").exists()
    code, line = command("--resume", str(tmp_path / "nowhere"), has_bf16=True, exp_name="third")
    assert code == 2 and "nowhere: holds no training checkpoint" in line


@pytest.mark.parametrize(
    "requested, device, has_bf16, expected",
    [
        ("auto", "cpu", False, "fp32"),
        ("auto", "cpu", True, "bf16"),
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp16"),
        ("bf16", "cpu", False, "bf16"),
        ("fp32", "cpu", True, "fp32"),
        ("fp16", "cuda", False, "fp16"),
    ],
)
def test_precision_follows_flag_then_hardware(requested, device, has_bf16, expected):
    chosen = choose_precision(requested, ds_file=None, device=device, has_bf16=has_bf16)
    assert chosen.name == expected and chosen.reason


@pytest.mark.parametrize(
    "earlier, device, has_bf16, expected",
    [
        ("bf16", "cpu", False, "bf16"),
        ("fp32", "cpu", True, "fp32"),
        ("bf16", "cuda", False, "bf16"),
        ("fp16", "cuda", False, "fp16"),
        ("fp16", "cpu", False, "fp32"),
        ("nonsense", "cpu", True, "bf16"),
    ],
)
def test_auto_keeps_what_a_run_was_begun_in_where_the_device_can(earlier, device, has_bf16, expected):
    """A job that is requeued may land on another kind of node."""
    chosen = choose_precision("auto", ds_file=None, device=device, has_bf16=has_bf16, earlier=earlier)
    assert chosen.name == expected
    assert choose_precision("fp32", ds_file=None, device=device, earlier=earlier).name == "fp32"


def test_fp16_on_a_cpu_is_refused_and_names_the_alternative():
    with pytest.raises(InputError, match="needs a GPU.*bf16 or fp32"):
        choose_precision("fp16", ds_file=None, device="cpu")


def test_a_json_decides_the_precision_where_the_flag_is_auto(tmp_path):
    assert (
        choose_precision(
            "auto", ds_file=load_ds_config(str(FOLDER / "zero1_bf16.json"), "fp32"), device="cpu"
        ).name
        == "bf16"
    )


def test_a_flag_that_contradicts_the_json_is_refused():
    with pytest.raises(InputError, match="--precision fp32 contradicts .*zero2_bf16.json"):
        choose_precision(
            "fp32", ds_file=load_ds_config(str(FOLDER / "zero2_bf16.json"), "fp32"), device="cpu"
        )
