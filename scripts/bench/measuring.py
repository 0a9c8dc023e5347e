"""Shared by the benchmarks: processes with their time and memory, the machine's description, result files."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "torch",
    "torchvision",
    "deepspeed",
    "timm",
    "transformers",
    "numpy",
    "pandas",
    "pillow",
    "pydicom",
)


# what this process may have been given as a rank is not for those that it starts
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ran:
    """One process tree: wall seconds, and the peak of its memory summed over its processes (MiB).

    `private_mib` leaves out pages of mapped files, which the system takes back when it needs them; pages that
    several processes share count once in both.
    """

    seconds: float
    total_mib: float
    private_mib: float
    output: str = ""


def run(command: list[str], *, every_s: float = 3.0, tree: Path = ROOT) -> Ran:
    """Run a command to its end, watching its memory (seldom: looking at it takes time from the command).

    Args:
        command: program and arguments.
        every_s: seconds between two looks.
        tree: the checkout whose csr it uses.

    Raises:
        RuntimeError: it failed; its last lines are in the message.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=tree,
        env={name: value for name, value in os.environ.items() if name not in LAUNCHER}
        | ({"PYTHONPATH": str(tree)} if tree != ROOT else {}),
    )
    peak, stop = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(every_s):
            now = memory_of_tree(process.pid)
            peak[:] = [max(old, new) for old, new in zip(peak, now)]

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - began
    stop.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-3000:]}")
    return Ran(seconds, peak[0], peak[1], output)


def memory_of_tree(root: int) -> tuple[float, float]:
    """Return proportional memory of a process and all below it: all of it, and without mapped files (MiB)."""
    parent = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
            parent[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    tree, grown = {root}, True
    while grown:  # launchers give their workers sessions of their own, so that parents alone show
        below = {pid for pid, above in parent.items() if above in tree} - tree
        tree, grown = tree | below, bool(below)
    total = private = 0.0
    for pid in tree:
        with contextlib.suppress(OSError, KeyError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            sizes = {name: int(kib) for name, kib in re.findall(r"^(Pss\w*):\s+(\d+) kB", text, re.M)}
            total += sizes["Pss"] / 1024
            private += (sizes["Pss"] - sizes.get("Pss_File", 0)) / 1024
    return total, private


def machine() -> dict[str, Any]:
    """Return hardware and versions, for the head of a result."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    script = [os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "driver": _driver(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "revision": _revision(),
        "command": " ".join(["python", *script]),
        "date": time.strftime("%Y-%m-%d"),
    }


def _driver() -> str | None:
    """Return the version of the GPU's driver; None without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a machine that is lent for an hour has what it has
        return None


def _revision() -> str | None:
    """Return the revision of the code; None without git or its folder."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def median(values: list[float]) -> float:
    return float(statistics.median(values)) if values else float("nan")


def spread(values: list[float], digits: int = 2) -> str:
    """Return median and range of repeated measurements."""
    if not values:
        return "-"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


class Report:
    """Lines that are printed at once and kept, and numbers that go into the JSON beside them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.lines: list[str] = []
        self.numbers: dict[str, Any] = {"machine": machine()}
        for key, value in self.numbers["machine"].items():
            self.say(f"{key:<12} {value}")
        self.say()

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def write(self) -> None:
        """Write both files, after each part: a long benchmark that is cut off leaves what it has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.name}.txt").write_text("\n".join(self.lines) + "\n")
        (self.folder / f"{self.name}.json").write_text(json.dumps(self.numbers, indent=2) + "\n")
