"""Facts of one machine: versions, devices, room, programs, and the hashes of a run's data."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from csr import __version__
from csr.data.labels.names import IMAGE_SUFFIXES
from csr.engine import cpu
from csr.engine.device import computes_bf16
from csr.runtime import fingerprint
from csr.runtime.tensor_files import hash_file

MIB = 2**20
TABLES = ("train_csv", "test_csv", "boxes_csv")
FOLDERS = ("train_dir", "test_dir")
PROGRAMS = ("ssh", "pdsh")


def gather(paths: dict[str, str], folder: Path) -> dict[str, Any]:
    """Return everything that the machines of a run are compared by; plain values, for JSON.

    Args:
        paths: of `TABLES` and `FOLDERS`, by the name of their flag; those that are given.
        folder: whose disk is asked for room.

    Returns:
        Names and versions as text, sizes in MiB, devices, and for each path a hash and a count or a problem.
    """
    return {
        "host": socket.gethostname(),
        "csr": __version__,
        "code": fingerprint.of_code(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": version_of("deepspeed"),
        **devices(),
        "disk_mib": free_mib(folder),
        "shm_mib": free_mib(Path("/dev/shm")),
        "programs": {name: shutil.which(name) for name in PROGRAMS},
        "data": {name: describe_path(name, Path(path)) for name, path in paths.items()},
    }


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def devices() -> dict[str, Any]:
    """Return GPUs (name, memory) or none, cores that this process may use, and whether bf16 and fp16 are
    of use.
    """
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({"name": properties.name, "mib": properties.total_memory // MIB})
    bf16 = computes_bf16()
    return {
        "gpus": gpus,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "hidden": 0 if gpus else num_hidden_gpus(),
        "cuda": torch.version.cuda,
        "cores": cpu.cores(),
        "bf16": bf16,
        "fp16": bool(gpus),
    }


def num_hidden_gpus(folder: Path = Path("/dev")) -> int:
    """Return how many GPUs the driver has on this machine, whether torch sees them or not."""
    return len([p for p in folder.glob("nvidia*") if p.name.removeprefix("nvidia").isdigit()])


def free_mib(folder: Path) -> int | None:
    """Return the MiB free for this user's files, None where that is not known."""
    try:
        return shutil.disk_usage(folder).free // MIB
    except OSError:
        return None


def describe_path(name: str, path: Path) -> dict[str, Any]:
    """Return what identifies a table (its bytes) or an image folder (names and sizes of its images)."""
    try:
        if name in TABLES:
            size, digest = hash_file(path)
            return {"hash": digest, "count": size}
        listed = listing(path)
    except OSError as error:
        return {"problem": f"{path}: {error.strerror or 'cannot be read'}"}
    return {"hash": fingerprint.hash_of(listed), "count": len(listed)}


def listing(folder: Path) -> list[tuple[str, int]]:
    """Return names below a folder and sizes in bytes of what could be images; contents are not read."""
    found: list[tuple[str, int]] = []
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                elif Path(name).suffix.lower() in ("", *IMAGE_SUFFIXES) and entry.is_file():
                    found.append((name, entry.stat().st_size))
    return sorted(found)
