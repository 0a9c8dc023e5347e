"""Runs commands of csr as a user does on a machine with GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from train_command import flags

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")


def run(
    *words: str | Path, launcher: tuple[str, ...] = (), by_module: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of csr, or a script, on the GPUs that this process sees."""
    own = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    command = [sys.executable, *launcher, *(["-m"] if by_module else []), *map(str, words)]
    return subprocess.run(
        command, env={**own, **env}, capture_output=True, text=True, check=False, timeout=300
    )


def trained(
    folder: Path, out: Path, *more: str, launcher: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a small `csr train` to its end, in the precision that suits the GPU."""
    done = run("csr.train", *flags(folder, out, *more, precision=None), launcher=launcher, **env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done
