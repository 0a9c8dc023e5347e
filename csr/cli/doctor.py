"""`csr doctor`: what this machine can do; with `--hostfile`, whether all hosts are ready for one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from csr.cli.shared_flags import add_network_arguments
from csr.cluster.comparison import LOW_DISK_MIB
from csr.cluster.host_report import existing_parent
from csr.cluster.hostfile import read_hostfile
from csr.cluster.preflight import check_hosts, paths_of
from csr.config.parser import Parser
from csr.runtime.errors import InputError

EPILOG = """examples:
  csr doctor
  csr doctor --hostfile hostfiles/two_nodes_of_4 --train_csv labels_train.csv --train_dir train/
exit codes: 0 all is well, 2 something must be put right: the lines name it"""
LOW_SHM_MIB = 512


def main(argv: list[str] | None = None) -> int:
    """Check, print one line for each thing or host; return the exit code.

    Raises:
        InputError: a flag or the hostfile cannot be used, or something must be put right.
    """
    given = _parser().parse_args(argv)
    from csr.cluster.machine_facts import FOLDERS, TABLES

    paths = paths_of({name: getattr(given, name) for name in (*TABLES, *FOLDERS)})
    if given.hostfile is None:
        if given.ssh_port or given.master_port or given.master_addr:
            raise InputError(
                "--ssh_port, --master_addr and --master_port are about hosts: give --hostfile too"
            )
        return check_this_machine(paths, given.output_dir)
    outcome = check_hosts(
        read_hostfile(given.hostfile),
        paths=paths,
        output_dir=given.output_dir,
        ssh_port=given.ssh_port,
        master_addr=given.master_addr,
        master_port=given.master_port,
    )
    print("\n".join(outcome.lines), flush=True)
    outcome.require_ready()
    return 0


def check_this_machine(paths: dict[str, str], output_dir: str) -> int:
    """Print what this machine has, a line each.

    Raises:
        InputError: something without which no run works.
    """
    from csr.cluster.machine_facts import gather

    folder = existing_parent(output_dir)
    facts = gather(paths, folder)
    problems = []
    for name, text, problem in lines_of(facts, folder):
        print(f"{name:<11} {text}{f': {problem}' if problem else ''}", flush=True)
        if problem is not None:
            problems.append(f"{name}: {problem}")
    if problems:
        raise InputError("; ".join(problems))
    return 0


def lines_of(facts: dict[str, Any], folder: Path) -> list[tuple[str, str, str | None]]:
    """Return (thing, its state, what must be put right or None), in the order to print."""
    from csr.cluster.machine_facts import FOLDERS

    lines: list[tuple[str, str, str | None]] = [
        ("host", facts["host"], None),
        ("python", facts["python"], None),
        ("csr", f"{facts['csr']} (code {facts['code'][:8]})", None),
        ("torch", facts["torch"], None),
        (
            "deepspeed",
            facts["deepspeed"] or "not installed",
            None if facts["deepspeed"] else "pip install deepspeed",
        ),
        *gpu_lines(facts),
        ("cpu", f"{facts['cores']} core(s)", None),
        ("precision", precision_of(facts), None),
        _room("disk", facts["disk_mib"], str(folder), LOW_DISK_MIB, "make room for checkpoints"),
        _room("/dev/shm", facts["shm_mib"], "", 0, "")
        if not facts["gpus"]
        else _room(
            "/dev/shm", facts["shm_mib"], "", LOW_SHM_MIB, "NCCL needs more (docker run --shm-size=1g)"
        ),
    ]
    for program, path in facts["programs"].items():
        package = "openssh-client" if program == "ssh" else program
        missing = f"not installed (for several machines: apt install {package})"
        lines.append((program, path or missing, None))
    for flag, entry in facts["data"].items():
        unit = "images" if flag in FOLDERS else "bytes"
        text = (
            "cannot be used" if "problem" in entry else f"{entry['count']} {unit}, hash {entry['hash'][:8]}"
        )
        problem = f"{entry['problem']}; correct --{flag}" if "problem" in entry else None
        lines.append((flag, text, problem))
    return lines


def gpu_lines(facts: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Return a line for each GPU, and one where a run would not find all that there are."""
    from csr.engine.device import is_mig

    lines: list[tuple[str, str, str | None]] = []
    for gpu in facts["gpus"]:
        text = f"{gpu['name']}, {gpu['mib'] / 1024:.0f} GiB"
        note = " (a MIG slice: one rank alone, NCCL joins no two slices of one GPU)"
        lines.append(("gpu", text + (note if is_mig(gpu["name"]) else ""), None))
    visible = facts["visible"]
    if visible is not None and facts["gpus"]:
        lines.append(("gpu", f"{len(facts['gpus'])} visible: CUDA_VISIBLE_DEVICES={visible}", None))
    if not facts["gpus"] and facts["hidden"]:
        lines.append(("gpu", f"none seen of {facts['hidden']}", _why_unseen(facts)))
    return lines


def _why_unseen(facts: dict[str, Any]) -> str | None:
    if facts["visible"] == "":  # asked for: nothing is wrong
        return None
    if facts["cuda"] is None:
        return "this torch is built without CUDA: install the one for it (pytorch.org)"
    if facts["visible"] is not None:
        return f"CUDA_VISIBLE_DEVICES={facts['visible']} names none of them: unset it"
    return f"torch (CUDA {facts['cuda']}) cannot use the driver: look at nvidia-smi"


def precision_of(facts: dict[str, Any]) -> str:
    """Return the arithmetic that is of use here."""
    if facts["gpus"]:
        return "fp16, bf16, fp32" if facts["bf16"] else "fp16, fp32 (bf16 is emulated: slow)"
    return "fp32, bf16 (this CPU has instructions for it)" if facts["bf16"] else "fp32 (bf16 is slower here)"


def _room(name: str, mib: int | None, where: str, least: int, fix: str) -> tuple[str, str, str | None]:
    if mib is None:
        return name, "unknown", None
    return name, f"{mib / 1024:.1f} GiB free {where}".rstrip(), fix if mib < least else None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr doctor",
        epilog=EPILOG,
        allow_abbrev=False,
        description="Check this machine, or with --hostfile all hosts of a run, before it starts.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--hostfile", type=Path, help="`host slots=N` lines: check these hosts (default: this machine)"
    )
    parser.add_argument(
        "--train_csv", help="training labels: must be the same on all hosts (default: not checked)"
    )
    parser.add_argument("--test_csv", help="test labels, likewise")
    parser.add_argument("--boxes_csv", help="boxes, likewise")
    parser.add_argument("--train_dir", help="training images, by names and sizes (default: not checked)")
    parser.add_argument("--test_dir", help="test images, likewise")
    parser.add_argument(
        "--output_dir",
        default="checkpoints",
        help="room for results; all hosts must see it (default: checkpoints)",
    )
    add_network_arguments(parser)
    return parser
