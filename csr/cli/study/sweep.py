"""`csr sweep FILE -- FLAGS`: every combination of listed values, run after run, then compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from csr.cli import submit
from csr.cli.exit_codes import exit_process, run_command
from csr.cli.shared_flags import parser_before_train
from csr.cli.study.compare import CONTENT, compare_runs, option_names
from csr.cluster.experiments import lines_text
from csr.cluster.grid import SweepRun, read_grid
from csr.cluster.run_sweep import command_of, run_all
from csr.config.flags import parse_train_flags
from csr.config.parser import Whole
from csr.runtime import ranks
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic
from csr.runtime.output_paths import check_output_folder

EPILOG = """examples:
  csr sweep grid.json -- --train_csv train.csv --test_csv test.csv
  csr sweep grid.json --slurm --submit --gpus_per_node 4 --time 12:00:00 -- --train_csv train.csv
grid.json lists values of options of csr train, as {"seed": [0, 1], "folds": [5], "fold": [0, 1, 2]}.
Flags that all runs have in common stand after --; a run is named EXP_NAME-seed0-folds5-fold2.
exit codes: 0 done, 1 a run failed, 2 bad input, 75 stopped by a signal: run the same command again"""
COMPARED_BY = ("seed", "fold")
MARKS = ("comparison.json", "comparison.html")


def main(argv: list[str] | None = None) -> int:
    """Run or submit what is not done, then compare all runs; return the exit code.

    Raises:
        InputError: FILE or flags that cannot be used, or a run whose input is bad.
        StoppedError: a run failed.
        PreemptedError: a signal; the same command goes on.
    """
    given, flags = submit.split(sys.argv[1:] if argv is None else argv)
    options = _parse(given)
    if ranks.world_size() > 1:
        raise InputError("csr sweep starts its runs itself: give --ranks, and no launcher")
    runs, names = read_grid(options.file, flags)
    states = [run.state() for run in runs]
    print(f"Sweep: {len(runs)} runs, {states.count('done')} of them done", flush=True)
    if options.list:
        for run, state in zip(runs, states, strict=True):
            print(f"{state:<10} {run.config.folder}")
        return 0
    base = parse_train_flags(flags)
    out = options.out or base.folder.with_name(f"{base.run.exp_name}-comparison")
    check_output_folder(out, overwrite=True, content=CONTENT, marks=MARKS)
    waiting = [run for run, state in zip(runs, states, strict=True) if state != "done"]
    if options.slurm and waiting:
        return _submit(waiting, flags, options, beside=base.folder)
    command = command_of(options.ranks or 1)
    run_all(runs, flags, command=command, report=lambda line: print(line, flush=True))
    if base.run.dry_run:
        return 0
    by = options.by if options.by is not None else tuple(name for name in COMPARED_BY if name in names)
    compare_runs([run.config.folder for run in runs], by=by, out=out)
    return 0


def _submit(
    waiting: Sequence[SweepRun], flags: list[str], options: argparse.Namespace, *, beside: Path
) -> int:
    """Write the flags of the runs that wait, one run a line, and hand them to csr submit as an array."""
    path = beside.with_name(f"{beside.name}.sweep")
    text = lines_text([list(run.words) for run in waiting])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}): give another --output_dir") from None
    options.experiments = path
    code = submit.hand_over(options, flags)
    sys.stderr.write("csr: when its jobs are done, the same command without --slurm compares the runs\n")
    return code


def _parse(given: list[str]) -> argparse.Namespace:
    """Return this command's options, with --slurm those of csr submit too.

    Raises:
        InputError: flags that cannot be used, or --ranks with --slurm.
    """
    parser = parser_before_train(
        "csr sweep",
        epilog=EPILOG,
        usage="csr sweep FILE [options] -- [flags of csr train]",
        description="Train every combination of the values in FILE: finished runs are skipped, unfinished "
        "ones resumed; then csr compare.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="JSON: option -> list of values")
    add("--ranks", type=Whole(1, 4096), help="processes of each run, on this machine (default: 1)")
    add("--list", action="store_true", help="print the runs and how far they are, and stop")
    add(
        "--slurm",
        action="store_true",
        help="hand what is not done to csr submit as an array: its flags (--submit, --time, ..) go here too",
    )
    add(
        "--by",
        type=option_names,
        metavar="OPTION,..",
        help="runs that differ in nothing but these are compared as one group (default: seed and fold, as "
        "far as FILE has them)",
    )
    add("--out", metavar="DIR", type=Path, help="folder of the comparison (default: beside the runs)")
    if "--slurm" in given:
        submit.add_arguments(parser)
    options = parser.parse_args(given)
    if options.slurm and options.ranks is not None:
        raise InputError("--ranks is of this machine: with --slurm give --nodes and --ranks_per_node instead")
    return options


if __name__ == "__main__":
    exit_process(run_command(main))
