"""Runs one after another: what is done is skipped, a failure ends the sweep, signals reach the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sweep_grids import grid

from csr.cluster.run_sweep import command_of, run_all
from csr.runtime.errors import InputError, PreemptedError, StoppedError

# a stand-in for csr train: notes its seed and ends with the code that stands in a file of that name
STAND_IN = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
seed = next(word.split("=")[1] for word in sys.argv if word.startswith("--seed="))
with open(folder / "started", "a") as file:
    file.write(seed)
code = folder / seed
if code.exists() and code.read_text() == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))  # what torchrun passes on, and SIGUSR1 not
    (folder / "waiting").touch()
    time.sleep(60)
sys.exit(int(code.read_text()) if code.exists() else 0)
"""


def stand_in(tmp_path: Path) -> list[str]:
    return [sys.executable, "-c", STAND_IN, str(tmp_path)]


def finish(run) -> None:
    run.config.folder.mkdir(parents=True)
    (run.config.folder / "config.json").write_text(json.dumps({"options": run.config.to_dict()}))
    (run.config.folder / "results.json").write_text("{}")


def test_runs_come_in_order_and_those_that_are_done_are_skipped(tmp_path):
    runs, _ = grid(tmp_path, {"seed": [3, 1, 2]})
    finish(runs[1])
    lines: list[str] = []
    run_all(runs, ["--lr", "1e-3"], command=stand_in(tmp_path), report=lines.append)
    assert (tmp_path / "started").read_text() == "32"
    assert [line.split(": ")[0] for line in lines] == [f"=== Run {n} of 3" for n in (1, 2, 3)]
    assert "is done" in lines[1] and lines[2] == f"=== Run 3 of 3: {runs[2].name} ==="


@pytest.mark.parametrize(
    "code, error, message",
    [
        ("1", StoppedError, "seed1: the run ended with exit code 1"),
        ("2", InputError, "seed1: the run refused its input"),
        ("75", PreemptedError, "stopped at csr_exp-seed1: run the same command again"),
    ],
)
def test_the_first_run_that_does_not_finish_ends_the_sweep(tmp_path, code, error, message):
    runs, _ = grid(tmp_path, {"seed": [0, 1, 2]})
    (tmp_path / "1").write_text(code)
    with pytest.raises(error, match=message):
        run_all(runs, [], command=stand_in(tmp_path), report=lambda line: None)
    assert (tmp_path / "started").read_text() == "01"


IN_A_PROCESS = """
import sys
from pathlib import Path
from csr.cli.exit_codes import run_command
from csr.cluster.grid import read_grid
from csr.cluster.run_sweep import run_all
folder, *command = sys.argv[1:]
runs, _ = read_grid(Path(folder) / "grid.json", ["--output_dir", folder + "/out"])
sys.exit(run_command(lambda argv: run_all(runs, [], command=command, report=print)))
"""


def test_a_signal_reaches_the_run_and_the_sweep_ends_as_stopped(tmp_path):
    grid(tmp_path, {"seed": [0, 1]})
    (tmp_path / "0").write_text("wait")
    words = [sys.executable, "-c", IN_A_PROCESS, str(tmp_path), *stand_in(tmp_path)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "waiting").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "csr: pre-empted: SIGUSR1: stopped at csr_exp-seed0" in err
    assert (tmp_path / "started").read_text() == "0"


@pytest.fixture
def hang_up() -> Iterator[Callable[[object], None]]:
    """Send this process what a closing terminal sends; its handling is as before afterwards."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda _: os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, before)


def test_a_sweep_under_nohup_outlives_its_terminal(tmp_path, hang_up):
    runs, _ = grid(tmp_path, {"seed": [0, 1]})
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    run_all(runs, [], command=stand_in(tmp_path), report=hang_up)
    assert (tmp_path / "started").read_text() == "01"
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_without_nohup_a_closed_terminal_stops_a_sweep(tmp_path, hang_up):
    runs, _ = grid(tmp_path, {"seed": [0, 1]})
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.raises(PreemptedError, match="SIGHUP: stopped at csr_exp-seed0"):
        run_all(runs, [], command=stand_in(tmp_path), report=hang_up)


def test_several_ranks_are_started_by_torchrun():
    assert command_of(1) == [sys.executable, "-m", "csr.train"]
    assert command_of(2)[1:] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "csr.train")
    ]
