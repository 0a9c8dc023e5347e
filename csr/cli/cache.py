"""`csr cache list|prune DIR`.

What caches of images and features take, and the removal of those long unused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from csr.config.parser import Parser
from csr.runtime.errors import InputError
from csr.runtime.sizes import gib_text
from csr.training.cache_usage import LEAST_DAYS, entries_in, line_of, prune, total


def main(argv: list[str] | None = None) -> int:
    """List the files, or remove old ones; return the exit code.

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
        print(f"{len(entries)} files, {gib_text(total(entries))} in {options.dir}")
        return 0
    if not LEAST_DAYS <= options.days < float("inf"):
        raise InputError(f"--days {options.days:g}: give {LEAST_DAYS:g} or more")
    prune(entries, days=options.days, dry_run=options.dry_run, report=print)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr cache",
        allow_abbrev=False,
        description="Caches of decoded images and of features: list them, or remove those long unused.",
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="list|prune", parser_class=Parser)
    commands_help = {
        "list": "sizes of the files, and days since their last use",
        "prune": "remove what no run has opened for long",
    }
    both = [
        commands.add_parser(n, help=t, description=t, allow_abbrev=False) for n, t in commands_help.items()
    ]
    for one in both:
        one.add_argument("dir", type=Path, metavar="DIR", help="folder of a cache, or one above it")
    both[1].add_argument(
        "--days", type=float, default=30.0, help="remove what no run has opened for so long (default: 30)"
    )
    both[1].add_argument("--dry_run", action="store_true", help="only list what would be removed")
    return parser
