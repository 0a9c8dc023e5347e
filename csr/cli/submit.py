"""`csr submit [what the site needs] -- FLAGS`: a SLURM job file for csr train, shown and submitted."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from csr.cli.shared_flags import parser_before_train
from csr.cluster.experiments import Experiments, experiments_of, lines_text
from csr.cluster.slurm_job import Job, Site, job_text, plain_name
from csr.config.flags import parse_train_flags
from csr.config.options import TrainConfig
from csr.config.parser import Whole
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic

EPILOG = """examples:
  csr submit --partition gpu --gpus_per_node 4 --time 12:00:00 -- --train_csv train.csv --exp_name run1
  csr submit --submit --nodes 2 --gpus_per_node 0 --cpus_per_task 8 -- --exp_name on_cpus
  csr submit --submit --experiments experiments.txt -- --train_csv train.csv
An experiments file has the flags of one run on each line, such as: --exp_name warm --lr 1e-3
Flags that a job has in common stand after --, and go before those of its line."""
MARK = "# Written by csr submit."
MANY = 20


def main(argv: list[str] | None = None) -> int:
    """Write the job file, print it or submit it; return the exit code.

    Raises:
        InputError: a flag of either kind that cannot be used, no sbatch, or sbatch refuses the file.
    """
    given, flags = split(sys.argv[1:] if argv is None else argv)
    return hand_over(_parser().parse_args(given), flags)


def hand_over(options: argparse.Namespace, flags: list[str]) -> int:
    """Write the job file, print it or submit it; return the exit code.

    Args:
        options: those of `add_arguments`, and `experiments`.
        flags: of csr train, common to all runs.

    Raises:
        InputError: see `main`.
    """
    site = site_of(options)
    base = parse_train_flags(flags)
    experiments = experiments_of(flags, base, file=options.experiments, array=options.array)
    sbatch = shutil.which("sbatch")
    if options.submit and sbatch is None:
        raise InputError(
            "--submit: there is no sbatch on this machine: omit --submit and take the file there"
        )
    path = beside(base)
    listed = None
    if experiments.lines:  # tasks read it when they start: a later array has lines of its own
        lines = lines_text(experiments.lines)
        listed = path.with_name(f"{path.name}.{hashlib.sha256(lines.encode()).hexdigest()[:8]}.experiments")
    text = job_text(job_of(options, flags, base, experiments, listed), site)
    write_ours(path, text)
    if listed is not None:
        write_ours(listed, lines)
    for note in missing(experiments.configs):
        sys.stderr.write(f"csr: note: {note}: the job's nodes must see it\n")
    if not options.submit:
        print(text, end="")
        shown = shlex.quote(str(path))
        sys.stderr.write(f"csr: written to {path}: submit it with `sbatch {shown}`, or --submit\n")
        return 0
    assert sbatch is not None
    print(f"Job file: {path}")
    is_numbered = experiments.array is not None and not experiments.lines
    runs = f"tasks {experiments.array}" if is_numbered else f"{len(experiments.configs)} run(s)"
    print(f"Submitted job {submitted(sbatch, path)}: {runs}")
    for config in experiments.configs[:MANY]:
        print(f"Results:  {config.folder}")
    if len(experiments.configs) > MANY:
        print(f"Results:  .. {len(experiments.configs) - MANY} more")
    print(f"Log:      {output_of(options, base, array=experiments.array is not None)}")
    return 0


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before the first -- and those after it."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def site_of(options: argparse.Namespace) -> Site:
    named = {name: getattr(options, name) for name in Site.__dataclass_fields__ if name != "options"}
    return Site(**named, options=tuple(options.sbatch))


def job_of(
    options: argparse.Namespace,
    flags: list[str],
    base: TrainConfig,
    experiments: Experiments,
    listed: Path | None,
) -> Job:
    return Job(
        name=base.run.exp_name,
        flags=tuple(flags),
        folder=os.getcwd(),
        array=experiments.array,
        output=output_of(options, base, array=experiments.array is not None),
        experiments="" if listed is None else str(listed.absolute()),
        venv="" if options.container else str(options.venv.absolute()),
        container=options.container or "",
    )


def output_of(options: argparse.Namespace, base: TrainConfig, *, array: bool) -> str:
    """Return SLURM's pattern of the log: beside the run, by job number.

    % of a folder's own name is doubled.
    """
    if options.output is not None:
        return options.output
    folder = str(Path(base.run.output_dir).absolute()).replace("%", "%%")
    return f"{folder}/{plain_name(base.run.exp_name)}-{'%A_%a' if array else '%j'}.log"


def beside(base: TrainConfig) -> Path:
    return base.folder.with_name(f"{base.run.exp_name}.sbatch")


def write_ours(path: Path, text: str) -> None:
    """Write a file of csr's; a job file of another origin is left alone."""
    try:
        if path.suffix == ".sbatch" and path.exists() and MARK not in path.read_text(encoding="utf-8"):
            raise InputError(f"{path}: was not written by csr submit: move it, or give another --exp_name")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: file.write(text.encode()))
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path}: cannot be written ({error}): give another --output_dir") from None


def missing(configs: list[TrainConfig]) -> Iterator[str]:
    """Yield what the runs read and this machine does not have."""
    data = {
        f"--{name} {getattr(config.data, name)}": Path(getattr(config.data, name))
        for config in configs
        for name in ("train_csv", "test_csv", "train_dir", "test_dir")
    }
    yield from (f"{option} is not here" for option, path in data.items() if not path.exists())


def submitted(sbatch: str, path: Path) -> str:
    """Submit the job; return its number."""
    done = subprocess.run(
        [sbatch, "--parsable", str(path.absolute())],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise InputError(f"{path}: sbatch refuses it: {lines[-1].removeprefix('sbatch: error: ')}")
    return done.stdout.strip().split(";")[0]


def _parser() -> argparse.ArgumentParser:
    parser = parser_before_train(
        "csr submit",
        epilog=EPILOG,
        usage="csr submit [options] -- [flags of csr train]",
        description="Write a SLURM job file for csr train beside the run, and print or submit it.",
    )
    parser.add_argument(
        "--experiments", type=Path, help="a file with the flags of one run on each line, for an array"
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what csr sweep --slurm shares: what the site needs, and whether to submit."""
    add = parser.add_argument
    add("--submit", action="store_true", help="hand it to sbatch (default: print it)")
    add("--partition", help="partition (default: the cluster's)")
    add("--account", help="account that is charged")
    add("--qos", help="quality of service")
    add(
        "--time",
        default="24:00:00",
        help="time limit of each start, well above --signal_before; the next resumes (default: 24:00:00)",
    )
    add("--nodes", type=Whole(1, 99_999_999), default=1, help="nodes (default: 1)")
    add("--gpus_per_node", default="1", help="GPUs of each node, as 4 or a100:4; 0: on CPUs (default: 1)")
    add(
        "--ranks_per_node",
        type=Whole(1, 99_999_999),
        help="processes on each node (default: one per GPU, or one)",
    )
    add(
        "--cpus_per_task", type=Whole(1, 99_999_999), default=8, help="CPU cores of each process (default: 8)"
    )
    add("--mem", help="memory of each node, as 64G (default: the cluster's)")
    add("--constraint", help="features that nodes must have")
    add("--mail", metavar="ADDRESS", help="receives mail when it ends or fails")
    add("--sbatch", action="append", default=[], metavar="OPTION", help="any other: --sbatch=--exclusive")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--venv", type=Path, default=Path(sys.prefix), help="virtual or conda environment (default: this one)"
    )
    where.add_argument("--container", metavar="IMAGE", help="Apptainer image with csr in it")
    add("--array", help="task numbers, as 1-8 or 1-8%%2: --exp_name gets _NUMBER at its end")
    add(
        "--signal_before",
        type=Whole(1, 99_999_999),
        default=120,
        help="seconds before the time limit at which the run saves and requeues (default: 120)",
    )
    add("--output", metavar="FILE", help="log file, with SLURM's patterns (default: beside the run)")


if __name__ == "__main__":
    from csr.cli.exit_codes import exit_process, run_command

    exit_process(run_command(main))
