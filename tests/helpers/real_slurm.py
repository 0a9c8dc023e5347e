"""The cluster that slurm.sh makes, as a test uses it: submit jobs, wait for lines of logs, ask for states."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).with_name("slurm.sh")
CANNOT = 77
PATIENCE_S = 600.0  # a machine under load
ALIVE = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "REQUEUED"}


class CannotMake(Exception):
    """There can be no SLURM on this machine."""


class Slurm:
    """Hosts login, node1 and node2."""

    def __init__(self, state: Path, folder: Path) -> None:
        self.folder = folder
        launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        unlaunched = {k: v for k, v in os.environ.items() if k not in launched}
        env = {k: v for k, v in unlaunched.items() if not k.startswith(("SLURM", "SBATCH", "CSR_"))}
        self.env = env | {
            "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
            "CSR_SLURM": str(state),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def _script(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), *words],
            env=self.env,
            cwd=self.folder,
            text=True,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def up(self) -> None:
        done = self._script("up")
        if done.returncode == CANNOT:
            raise CannotMake(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr

    def down(self) -> None:
        done = self._script("down")
        assert done.returncode == 0, done.stderr

    def crash(self, host: str) -> None:
        assert self._script("crash", host).returncode == 0

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node."""
        return self._script("exec", *map(str, command))

    def output_of(self, *command: str | Path) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sbatch(self, *words: str | Path) -> Job:
        number = self.output_of("sbatch", "--parsable", *words).strip()
        return Job(self, number, self.folder / f"csr-{number}.log")

    def submit(self, *words: str) -> Job:
        """Submit a job with `csr submit --submit`."""
        printed = self.output_of(Path(sys.executable), "-m", "csr", "submit", "--submit", *words)
        number = re.search(r"^Submitted job (\d+):", printed, re.M)
        log = re.search(r"^Log: +(.*)$", printed, re.M)
        assert number and log, printed
        return Job(self, number[1], Path(log[1].replace("%j", number[1]).replace("%A", number[1])))


class Job:
    """A job, or a task of an array as NUMBER_TASK."""

    def __init__(self, slurm: Slurm, number: str, log: Path) -> None:
        self.slurm, self.number, self.log = slurm, number, log

    def task(self, number: int) -> Job:
        return Job(self.slurm, f"{self.number}_{number}", Path(str(self.log).replace("%a", str(number))))

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def field(self, name: str) -> str:
        shown = self.slurm.output_of("scontrol", "--oneliner", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S*)", shown)
        assert found, shown
        return found[1]

    def until(self, line: str, times: int = 1) -> None:
        """Wait for a line that has this text in it."""
        end = time.monotonic() + PATIENCE_S
        while self.text.count(line) < times:
            assert time.monotonic() < end, f"no {line!r}: {self.text[-3000:]}"
            state = self.field("JobState")
            over = state not in ALIVE and self.text.count(line) < times
            assert not over, f"{state} before {line!r}: {self.text[-3000:]}"
            time.sleep(0.2)

    def end(self) -> str:
        """Wait for its end; return its state then."""
        end = time.monotonic() + PATIENCE_S
        while (state := self.field("JobState")) in ALIVE:
            assert time.monotonic() < end, f"{state}: {self.text[-3000:]}"
            time.sleep(0.2)
        return state

    def signal(self, name: str) -> None:
        """Send a signal to its ranks, as a user does."""
        self.slurm.output_of("scancel", f"--signal={name}", self.number)
