"""Hashes of what all ranks of a run must share: data, options, code."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from csr import __version__
from csr.runtime import distributed
from csr.runtime.errors import InputError


def hash_of(*parts: Any) -> str:
    """Return a hash of arrays, paths' sizes and plain values, whatever machine computes it."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            encoded = f"{part.dtype.str} {part.shape}".encode() + np.ascontiguousarray(part).tobytes()
        else:
            encoded = json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def file_sizes(paths: Iterable[Path]) -> list[int]:
    return [path.stat().st_size for path in paths]


PACKAGE = Path(__file__).resolve().parents[1]


def of_code(*places: str) -> str:
    """Return a hash of the sources of csr that this process runs.

    Args:
        places: files and folders below the package; none takes all of it.

    Raises:
        FileNotFoundError: a place that is not there: a hash of less than was named would not be noticed.
    """
    files: set[Path] = set()
    for place in map(PACKAGE.joinpath, places or (".",)):
        if not place.exists():
            raise FileNotFoundError(place)
        files.update(place.rglob("*.py") if place.is_dir() else [place])
    return hash_of(
        [
            (f.relative_to(PACKAGE).as_posix(), hashlib.sha256(f.read_bytes()).hexdigest())
            for f in sorted(files)
        ]
    )


def agree(what: str, value: Any) -> None:
    """Check that all ranks have the same value. Collective.

    Args:
        what: named in the message, with its remedy.
        value: plain; dicts are compared key by key, so that the message can name what differs.

    Raises:
        InputError: the first rank that differs from rank 0, and where; the same on all ranks.
    """
    values = distributed.all_gather_object((distributed.host(), value))
    for rank, (host, other) in enumerate(values):
        if other == values[0][1]:
            continue
        first = values[0][1]
        named = ""
        if isinstance(first, dict):
            keys = [k for k in {**first, **other} if first.get(k) != other.get(k)]
            named = f" ({', '.join(f'{k}: {first.get(k)!r} and {other.get(k)!r}' for k in keys[:4])})"
        raise InputError(f"rank 0 on {values[0][0]} and rank {rank} on {host} differ in {what}{named}")


def versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "deepspeed", "transformers", "timm", "numpy", "pandas", "pillow")
    own = {"csr": __version__, "python": platform.python_version()}
    return own | {p: metadata.version(p) for p in packages}


GIT_S = 10.0  # a huge tree on a slow disk is not worth more of a run's start


def git_revision() -> str | None:
    """Return revision of the source tree that csr runs from, None where it is installed from a package."""
    return revision_of(PACKAGE.parent) if (PACKAGE.parent / ".git").exists() else None


def revision_of(folder: Path) -> str | None:
    """Return the revision of the git tree around a folder, `-dirty` with changes; None without one."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_S)
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
