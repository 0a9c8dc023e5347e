"""Cached images and features on disk: what is there, what is in use, what may go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from csr.runtime.errors import InputError
from csr.runtime.sizes import gib_text, mib_text

PATTERNS = {
    "images": ("images-*.bin", "images-*.unreadable.json", "images-*.part", "images-*.tmp"),
    "features": ("features-*.bin", "features-*.part", "features-*.tmp"),
}

DAY_S = 24 * 3600.0

LEAST_DAYS = 1.0  # a younger file may be in the making on another host

NOTICE_BYTES = 20 * 2**30


@dataclass(frozen=True)
class Entry:
    """One file of a cache.

    Attributes:
        path: of the file.
        kind: images or features.
        size: bytes.
        age_days: since a run opened or wrote it.
    """

    path: Path
    kind: str
    size: int
    age_days: float


def prune(entries: list[Entry], *, days: float, dry_run: bool, report: Callable[[str], None]) -> None:
    """Remove the files that no run has opened for so long, but none that a process of this host has open.

    Raises:
        InputError: a file cannot be removed.
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
                entry.path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"{entry.path}: cannot be removed ({error.strerror})") from None
        removed.append(entry)
        report(f"{'would remove' if dry_run else 'removed'}: {line_of(entry)}")
    word = "would be freed" if dry_run else "freed"
    report(f"{len(removed)} of {len(entries)} files, {gib_text(total(removed))} {word}")


def entries_in(folder: Path) -> Iterator[Entry]:
    """The cache files below a folder, by their names."""
    now = time.time()
    for kind, patterns in PATTERNS.items():
        for path in (path for pattern in patterns for path in folder.rglob(pattern)):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process has just removed it
                continue
            yield Entry(path, kind, status.st_size, max(0.0, now - status.st_mtime) / DAY_S)


def files_in_use() -> set[str]:
    """Cache files that processes of this host, as far as this user may see them, have mapped or open."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, UnicodeDecodeError):  # it has ended, or belongs to somebody else
            lines = (process / "maps").read_text().splitlines()
            found.update(
                line.split(maxsplit=5)[5] for line in lines if "images-" in line or "features-" in line
            )
            for link in (process / "fd").iterdir():
                with suppress(OSError):  # closed by now
                    found.add(os.readlink(link))
    return found


def notice(folder: Path) -> str | None:
    """What to tell the user of a cache folder that has become large."""
    entries = list(entries_in(folder)) if folder.is_dir() else []
    if total(entries) <= NOTICE_BYTES:
        return None
    return f"Notice: the caches in {folder} take {gib_text(total(entries))}: `csr cache prune {folder}` removes what is unused"


def line_of(entry: Entry) -> str:
    return f"{mib_text(entry.size):>14}  {entry.age_days:6.1f} days  {entry.kind:<8}  {entry.path}"


def total(entries: list[Entry]) -> int:
    """Return the bytes of some entries."""
    return sum(entry.size for entry in entries)
