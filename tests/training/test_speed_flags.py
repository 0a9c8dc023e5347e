"""`--batch_size auto`, `--activation_checkpointing`, `--compile` and `--profile` in whole runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from train_command import flags, start, train

KILLED_RUN = Path(__file__).parents[1] / "helpers" / "killed_run.py"
SHORT = {"epochs_stage1": "2", "epochs_stage2": "1", "epochs_stage3": "1"}
PLACE = "csr.training.observers.observer:StopWhenAsked.after_step"


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.dist
@pytest.mark.slow
def test_auto_is_recorded_and_kept_when_the_run_resumes(phantom_folder, tmp_path):
    out = tmp_path / "out"
    arguments = flags(
        phantom_folder,
        out,
        "--activation_checkpointing",
        "--profile",
        "2",
        "--effective_batch",
        "4",
        **{**SHORT, "batch_size": "auto"},
    )
    done = start(Path(sys.executable).name, str(KILLED_RUN), "TERM", PLACE, "3", *arguments)
    assert done.returncode == 75, done.stderr
    assert "--batch_size auto: 4 images per rank and 1 accumulation (a step takes about" in done.stdout
    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resumes" in done.stdout and "--batch_size auto" not in done.stdout
    run = out / "csr_exp"
    assert config_of(run)["batch_size_auto"].startswith("a step takes about"), "kept with the choice"
    optim = config_of(run)["options"]["optim"]
    assert (optim["batch_size"], optim["accumulation"], config_of(run)["effective_batch"]) == (4, 1, 4)
    shares = [sum(v for k, v in r["telemetry"].items() if k.endswith("_share")) for r in records(run)]
    assert shares == pytest.approx([1.0] * 4)
    assert all(r["telemetry"]["mfu"] > 0 for r in records(run))
    assert done.stdout.count(" took ") == 3
    traces = sorted(p.name for p in (run / "profile").iterdir())
    assert traces[0] == "stage1-concept-rank0.pt.trace.json"
    assert all(json.loads((run / "profile" / name).read_text())["traceEvents"] for name in traces)


@pytest.mark.dist
@pytest.mark.slow
def test_losses_of_a_compiled_run_are_those_of_a_plain_one(phantom_folder, tmp_path):
    out = tmp_path / "out"
    for name, more in (("plain", ()), ("compiled", ("--compile", "--activation_checkpointing"))):
        arguments = flags(phantom_folder, out, *more, **SHORT, exp_name=name)
        done = start(Path(sys.executable).name, "-m", "csr.train", *arguments, timeout=1200)
        assert done.returncode == 0, done.stderr
    plain, compiled = (records(out / name) for name in ("plain", "compiled"))
    for one, other in zip(plain, compiled, strict=True):
        # k-means, where stage 2 begins, amplifies rounding
        tolerance = 1e-3 if one["stage"] == "concept" else 0.2
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=tolerance), one["stage"]
    weights = [torch.load(out / n / "final_model.pth", weights_only=True) for n in ("plain", "compiled")]
    assert list(weights[0]) == list(weights[1])


@pytest.mark.dist
@pytest.mark.slow
def test_without_a_compiler_a_run_ends_with_one_line_and_code_2(phantom_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    done = train(*flags(phantom_folder, tmp_path / "out", "--compile", **SHORT))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("csr: error: --compile: ")
    assert not (tmp_path / "out" / "csr_exp").exists()
