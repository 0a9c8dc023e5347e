"""Processes of this machine by number: which one it is, whether it lives or is stopped, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that cannot be taken for another one of the same number.

    Attributes:
        pid: its number.
        began: when it began, in the kernel's ticks; -1 where there is no /proc.
        machine: names the running kernel and its table of processes; empty where there is no /proc.
    """

    pid: int
    began: int
    machine: str

    def state(self) -> str:
        """Return the kernel's letter for a process: "T" stopped, "" gone (or dead and unburied).

        Raises:
            ValueError: it is on another machine.
        """
        if not self.is_here():
            raise ValueError(f"process {self.pid} is not on this machine")
        state, began = _look(self.pid)
        return "" if began != self.began or state in "ZX" else state

    def is_here(self) -> bool:
        return self.machine == _machine() != ""

    def kill(self) -> None:
        """End it at once, if it is on this machine and still the same process."""
        if self.is_here() and self.state():
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def this_process() -> Process:
    return Process(os.getpid(), _look(os.getpid())[1], _machine())


def _look(pid: int) -> tuple[str, int]:
    """Return state and beginning; ("X", -1) if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "X", -1


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def network() -> str:
    """Return a name of the machine and its network as this process sees it; empty where there is no /proc."""
    try:
        return f"{_machine()} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        return ""
