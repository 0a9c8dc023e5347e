"""Runs that meet their end at a named place, and the same command left to finish."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from train_command import start

KILLED_RUN = Path(__file__).with_name("killed_run.py")
STEP = "csr.training.observers.observer:StopWhenAsked.after_step"


def ended(what: str, place: str, number: int, *arguments: str, ranks: int = 1) -> Any:
    """Run until the end at a place; return the exit code of this process or of the launcher."""
    words = [Path(sys.executable).name]
    if ranks > 1:
        words = ["torchrun", "--standalone", f"--nproc_per_node={ranks}"]
    return start(*words, str(KILLED_RUN), what, place, str(number), *arguments)


def finished(*arguments: str, ranks: int = 1) -> Any:
    words = [Path(sys.executable).name, "-m", "csr.train"]
    if ranks > 1:
        words = ["torchrun", "--standalone", f"--nproc_per_node={ranks}", "-m", "csr.train"]
    done = start(*words, *arguments)
    assert done.returncode == 0, done.stderr
    return done
