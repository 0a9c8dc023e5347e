"""`csr cache list|prune DIR`: what caches of images and features take, and the removal of those long unused."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from csr.cli.exit_codes import Parser
from csr.runtime.errors import InputError

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


def main(argv: list[str] | None = None) -> int:
    """List the files, or remove old ones; returns the exit code.

    Raises:
        InputError: no such folder, a limit below a day, a file that cannot be removed.
    """
    options = _parser().parse_args(argv)
    if not options.dir.is_dir():
        raise InputError(f"{options.dir}: no such folder; give the folder of a cache or --output_dir of runs")
    entries = sorted(entries_in(options.dir), key=lambda entry: entry.age_days)
    if options.what == "list":
        for entry in entries:
            print(line_of(entry))
        print(f"{len(entries)} files, {_gib(entries)} in {options.dir}")
        return 0
    if not LEAST_DAYS <= options.days < float("inf"):
        raise InputError(f"--days {options.days:g}: give {LEAST_DAYS:g} or more")
    prune(entries, days=options.days, dry_run=options.dry_run)
    return 0


def prune(entries: list[Entry], *, days: float, dry_run: bool) -> None:
    """Remove the files that no run has opened for so long, but none that a process of this host has open.

    Raises:
        InputError: a file cannot be removed.
    """
    old = [entry for entry in entries if entry.age_days > days]
    open_now = files_in_use() if old else set()
    removed = []
    for entry in old:
        if os.path.realpath(entry.path) in open_now:
            print(f"kept, in use: {line_of(entry)}")
            continue
        if not dry_run:
            try:
                entry.path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"{entry.path}: cannot be removed ({error.strerror})") from None
        removed.append(entry)
        print(f"{'would remove' if dry_run else 'removed'}: {line_of(entry)}")
    word = "would be freed" if dry_run else "freed"
    print(f"{len(removed)} of {len(entries)} files, {_gib(removed)} {word}")


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
            found.update(line.split(maxsplit=5)[5] for line in lines if "images-" in line or "features-" in line)
            for link in (process / "fd").iterdir():
                with suppress(OSError):  # closed by now
                    found.add(os.readlink(link))
    return found


def notice(folder: Path) -> str | None:
    """What to tell the user of a cache folder that has become large."""
    entries = list(entries_in(folder)) if folder.is_dir() else []
    if sum(entry.size for entry in entries) <= NOTICE_BYTES:
        return None
    return f"Notice: the caches in {folder} take {_gib(entries)}: `csr cache prune {folder}` removes what is unused"


def line_of(entry: Entry) -> str:
    return f"{entry.size / 2**20:10.1f} MiB  {entry.age_days:6.1f} days  {entry.kind:<8}  {entry.path}"


def _gib(entries: list[Entry]) -> str:
    return f"{sum(entry.size for entry in entries) / 2**30:.2f} GiB"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr cache", allow_abbrev=False,
        description="Caches of decoded images and of features: list them, or remove those long unused.",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="what", required=True, metavar="list|prune", parser_class=Parser)
    told = {
        "list": "sizes of the files, and days since their last use",
        "prune": "remove what no run has opened for long",
    }
    both = [commands.add_parser(n, help=t, description=t, allow_abbrev=False) for n, t in told.items()]
    for one in both:
        one.add_argument("dir", type=Path, metavar="DIR", help="folder of a cache, or one above it")
    both[1].add_argument(
        "--days", type=float, default=30.0, help="remove what no run has opened for so long (default: 30)"
    )
    both[1].add_argument("--dry_run", action="store_true", help="only say what would be removed")
    return parser
