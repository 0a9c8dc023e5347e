"""`csr reproduce NAME DATA`: import, CSR and baselines over seeds, atlas refinement, one table."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from csr.cli import submit
from csr.cli.exit_codes import exit_process, run_command
from csr.cli.shared_flags import parser_before_train
from csr.cli.study.reproduction.plan import make_plan
from csr.cli.study.reproduction.protocols import METHODS, PROTOCOLS
from csr.config.parser import Whole, did_you_mean
from csr.runtime import ranks
from csr.runtime.errors import InputError

EPILOG = """examples:
  csr reproduce paper-vindr vindr-cxr/1.0.0/ --out vindr-table/
  csr reproduce paper-tbx11k TBX11K/ --list
  csr reproduce breast breast/ --seeds 0-4 -- --epochs_stage1 40
DATA is the published data set as it was unpacked (it is imported), or a folder that csr data wrote.
Flags of csr train after -- win over those of the table. What is done is skipped: run the same command again
after an interruption. The weights of --recipe paper come from the hub, or with --weights from a file.
exit codes: 0 done, 1 a run failed, 2 bad input, 75 stopped by a signal: run the same command again"""
MOST_SEEDS = 100


def main(argv: list[str] | None = None) -> int:
    """Show the plan, or do what is not done of it and write the table; return the exit code.

    Raises:
        InputError: data or flags that cannot be used.
        StoppedError: a run failed.
        PreemptedError: a signal; the same command goes on.
    """
    given, flags = submit.split(sys.argv[1:] if argv is None else argv)
    options = _build_parser().parse_args(given)
    if ranks.world_size() > 1:
        raise InputError("csr reproduce starts its runs itself: give --ranks, and no launcher")
    plan = make_plan(
        options.name,
        options.data,
        options.out or Path("checkpoints") / options.name,
        seeds=options.seeds,
        methods=options.methods,
        weights=options.weights,
        flags=flags,
    )
    from csr.cli.study.reproduction import steps, table

    rows = steps.states(plan)
    done = sum(state == steps.DONE for _, state, _ in rows)
    print(f"{plan.protocol.title}: {len(rows)} steps, {done} of them done", flush=True)
    for line in plan.left_out:
        print(f"Notice: {line}", flush=True)
    if options.list:
        for what, state, place in rows:
            print(f"{state:<10} {what:<8} {place}")
        return 0
    edited = steps.run(plan, ranks=options.ranks, say=lambda line: print(line, flush=True))
    for line in table.write_tables(plan, edited=edited):
        print(line)
    return 0


def seed_numbers(text: str) -> tuple[int, ...]:
    """Return the seeds of `0-2` or `0,3,5`."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip(), flags=re.ASCII)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: give seeds as 0-2 or 0,3,5")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"{part}: give up to {MOST_SEEDS} seeds, the lower one first")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def method_names(text: str) -> tuple[str, ...]:
    """Return the methods in a list with commas, in the order of the table."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(
                f"{name!r}{did_you_mean(name, METHODS) or ': give some of ' + ','.join(METHODS)}"
            )
    return tuple(name for name in METHODS if name in names)


def _build_parser() -> argparse.ArgumentParser:
    parser = parser_before_train(
        "csr reproduce",
        epilog=EPILOG,
        usage="csr reproduce NAME DATA [options] -- [flags of csr train]",
        description="From a published data set to its table: import, CSR and the three baselines over seeds, "
        "the atlas refined by the boxes of training images, csr compare, and the published numbers beside.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", choices=tuple(PROTOCOLS), help=", ".join(PROTOCOLS))
    add("data", metavar="DATA", type=Path, help="folder of the data set")
    add("--out", metavar="DIR", type=Path, help="folder of all that is made (default: checkpoints/NAME)")
    add(
        "--seeds",
        type=seed_numbers,
        default=(0, 1, 2),
        metavar="0-2",
        help="runs of each method (default: 0-2)",
    )
    add(
        "--methods",
        type=method_names,
        default=METHODS,
        metavar="METHOD,..",
        help=f"some of {','.join(METHODS)} (default: all)",
    )
    add("--weights", metavar="FILE", type=Path, help="pretrained weights of the backbone, from a file")
    add("--ranks", type=Whole(1, 4096), default=1, help="processes of each run, on this machine (default: 1)")
    add("--list", "--dry_run", action="store_true", help="print the steps and how far they are, and stop")
    return parser


if __name__ == "__main__":
    exit_process(run_command(main))
