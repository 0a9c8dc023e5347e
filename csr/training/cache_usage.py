"""Cached images (files) and features (folders) on disk: their sizes, their users, and their removal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from csr.runtime.errors import InputError
from csr.runtime.sizes import gib_text, mib_text
from csr.training.features.arrays import discard

PATTERNS = {
    "images": ("images-*.bin", "images-*.unreadable.json", "images-*.part", "images-*.tmp"),
    # .bin: of earlier versions
    "features": ("features-*.rows", "features-*.bin", "features-*.part", "features-*.tmp"),
}

DAY_S = 24 * 3600.0

LEAST_DAYS = 1.0  # a younger file may be in the making on another host

NOTICE_BYTES = 20 * 2**30


@dataclass(frozen=True)
class Entry:
    """One file or folder of a cache.

    Attributes:
        path: of it.
        kind: images or features.
        size: bytes.
        age_days: since a run opened or wrote it.
    """

    path: Path
    kind: str
    size: int
    age_days: float


def prune(entries: list[Entry], *, days: float, dry_run: bool, report: Callable[[str], None]) -> None:
    """Remove what no run has opened for so long, but nothing that a process of this host has open.

    Raises:
        InputError: a file or folder cannot be removed.
    """
    old = [entry for entry in entries if entry.age_days > days]
    open_now = files_in_use() if old else set()
    removed = []
    for entry in old:
        if os.path.realpath(entry.path) in open_now:
            report(f"kept, in use: {line_of(entry)}")
            continue
        if not dry_run:
            try:
                discard(entry.path)
            except OSError as error:
                raise InputError(f"{entry.path}: cannot be removed ({error.strerror})") from None
        removed.append(entry)
        report(f"{'would remove' if dry_run else 'removed'}: {line_of(entry)}")
    word = "would be freed" if dry_run else "freed"
    report(f"{len(removed)} of {len(entries)} files, {gib_text(total(removed))} {word}")


def entries_in(folder: Path) -> Iterator[Entry]:
    """Yield the cache files and folders below a folder, by their names."""
    now = time.time()
    for kind, patterns in PATTERNS.items():
        for path in (path for pattern in patterns for path in folder.rglob(pattern)):
            try:
                status = path.stat()
                size = _size_of(path)
            except FileNotFoundError:  # another process has just removed it
                continue
            yield Entry(path, kind, size, max(0.0, now - status.st_mtime) / DAY_S)


def _size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def files_in_use() -> set[str]:
    """Return files that processes of this host have mapped or open, and the folders that hold those files.

    Processes of other users are seen as far as the system lets this user see them.
    """
    used: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, UnicodeDecodeError):  # it has ended, or belongs to somebody else
            lines = (process / "maps").read_text().splitlines()
            used.update(
                line.split(maxsplit=5)[5] for line in lines if "images-" in line or "features-" in line
            )
            for link in (process / "fd").iterdir():
                with suppress(OSError):  # closed by now
                    used.add(os.readlink(link))
    return used | {os.path.dirname(path) for path in used}


def notice(folder: Path) -> str | None:
    """Return a line for the user if a cache folder has become large, else None."""
    entries = list(entries_in(folder)) if folder.is_dir() else []
    if total(entries) <= NOTICE_BYTES:
        return None
    size = gib_text(total(entries))
    return f"Notice: the caches in {folder} take {size}: `csr cache prune {folder}` removes what is unused"


def line_of(entry: Entry) -> str:
    """Return size, days since the last use, kind and path of an entry, in columns."""
    return f"{mib_text(entry.size):>14}  {entry.age_days:6.1f} days  {entry.kind:<8}  {entry.path}"


def total(entries: list[Entry]) -> int:
    """Return the bytes of some entries."""
    return sum(entry.size for entry in entries)
