"""The text of a SLURM job file.

The request to the site, the flags of a run, then csr/cluster/train.sbatch as it is. sbatch itself checks
times, task numbers and names; here a value is only kept from being read as anything else.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from importlib import resources

from csr.runtime.errors import InputError

_BODY_BEGINS = "set -euo pipefail\n"
_PLAIN = re.compile(r"[\w.,:;/@%+=&|*()\[\]!~^-]+", re.ASCII)
_QUOTABLE = re.compile(r"[^\"\\\x00-\x1f\x7f]+")
_GPUS = re.compile(r"(?:[\w.-]+:)?(\d{1,4})", re.ASCII)
# the option of sbatch may hold what the user gave otherwise, or not at all
_ASKED_BY = {"--chdir": "the folder of this shell", "--output": "--output or --output_dir"}
_MOST_TASKS = 100_000
_LARGEST_SIGNAL_S = 65535


@dataclass(frozen=True)
class Site:
    """The request of a job to its cluster; None asks for nothing.

    Attributes:
        gpus_per_node: a number, or TYPE:NUMBER; 0 trains on CPUs.
        ranks_per_node: None is one for each GPU, or one.
        time: limit of each start, as sbatch reads it.
        signal_before: seconds before the time limit at which the ranks are asked to save.
        options: more options of sbatch, as they are, with their dashes.
    """

    nodes: int
    gpus_per_node: str
    ranks_per_node: int | None
    cpus_per_task: int
    time: str
    signal_before: int
    partition: str | None
    account: str | None
    qos: str | None
    mem: str | None
    constraint: str | None
    mail: str | None
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        gpus = self.num_gpus
        if self.ranks_per_node is not None and 0 < gpus < self.ranks_per_node:
            raise InputError(
                f"--ranks_per_node {self.ranks_per_node} on {gpus} GPU(s) of a node: give one rank to a GPU"
            )
        if not 1 <= self.signal_before <= _LARGEST_SIGNAL_S:
            raise InputError(f"--signal_before {self.signal_before}: give 1 to {_LARGEST_SIGNAL_S} seconds")
        for option in self.options:
            if not option.startswith("-"):
                raise InputError(f"--sbatch {option!r}: give an option with its dashes: --sbatch=--exclusive")

    @property
    def num_gpus(self) -> int:
        found = _GPUS.fullmatch(self.gpus_per_node)
        if found is None:
            raise InputError(f"--gpus_per_node {self.gpus_per_node!r}: give a number, or a type as in a100:4")
        return int(found[1])

    def directives(self) -> list[str]:
        """Return the #SBATCH lines of what the cluster is asked for."""
        gpus = self.gpus_per_node if self.num_gpus else None
        asked = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "nodes": self.nodes,
            "ntasks-per-node": self.ranks_per_node or self.num_gpus or 1,
            "gpus-per-node": gpus,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.mem,
            "constraint": self.constraint,
            "time": self.time,
            "signal": f"B:USR1@{self.signal_before}",
            "mail-user": self.mail,
            "mail-type": "END,FAIL" if self.mail else None,
        }
        more = (option.partition("=") for option in self.options)
        return [
            *(directive(f"--{name}", str(value)) for name, value in asked.items() if value is not None),
            *(directive(name, value) for name, _, value in more),
        ]


@dataclass(frozen=True)
class Job:
    """One job of csr train.

    Attributes:
        name: of the experiment; in SLURM's lists other characters than letters and digits become "_".
        flags: of csr train.
        folder: where it starts; relative paths of `flags` begin there.
        output: SLURM's pattern of the log file.
        array: SLURM's numbers of its tasks, or None.
        experiments: path of a file whose line N is added to the flags of task N, or "".
        venv, container: where csr is found; both "" is .venv of `folder`, else the python of the user.
    """

    name: str
    flags: tuple[str, ...]
    folder: str
    output: str
    array: str | None = None
    experiments: str = ""
    venv: str = ""
    container: str = ""


def job_text(job: Job, site: Site) -> str:
    """Return the whole file. Values are quoted: none of them is run.

    Raises:
        InputError: a value that cannot stand in a line for sbatch.
    """
    lines = [
        "#!/usr/bin/env bash",
        "# Written by csr submit. Training on SLURM, one task per rank; it requeues itself until it is done.",
        directive("--job-name", plain_name(job.name)),
        *site.directives(),
        *([directive("--array", job.array)] if job.array is not None else []),
        "#SBATCH --requeue",
        directive("--chdir", job.folder),
        directive("--output", job.output),
        "#SBATCH --open-mode=append",
        _BODY_BEGINS.rstrip(),
        "",
        *(
            f"{name}={shlex.quote(value)}"
            for name, value in (
                ("CSR_VENV", job.venv),
                ("CSR_CONTAINER", job.container),
                ("CSR_EXPERIMENTS", job.experiments),
            )
        ),
        *([] if site.num_gpus else ["export DS_ACCELERATOR=cpu CUDA_VISIBLE_DEVICES="]),
        f"set -- {shlex.join(job.flags)}".rstrip(),
    ]
    return "\n".join(lines) + "\n" + _body()


def _body() -> str:
    template = (resources.files("csr.cluster") / "train.sbatch").read_text(encoding="utf-8")
    _, found, body = template.partition(_BODY_BEGINS)
    assert found, "train.sbatch has no line that ends its head"
    return body


def directive(option: str, value: str = "") -> str:
    """Return a line that sbatch reads. It knows quotes, but ends at a line break."""
    if not re.fullmatch(r"--?[A-Za-z][\w-]*", option, re.ASCII):
        raise InputError(f"{option!r}: no option of sbatch")
    if not value:
        return f"#SBATCH {option}"
    if _PLAIN.fullmatch(value):
        return f"#SBATCH {option}={value}"
    if not _QUOTABLE.fullmatch(value):
        asked = _ASKED_BY.get(option, option)
        raise InputError(f"{asked} {value!r}: give it without double quotes, backslashes or line breaks")
    return f'#SBATCH {option}="{value}"'


def plain_name(name: str) -> str:
    """Return a name that file patterns and SLURM's lists take."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:100]


def task_numbers(array: str) -> list[int]:
    """Return the task numbers of `1-3`, `0-6:2` or `1,5,7`, each perhaps with %LIMIT at its end.

    Raises:
        ValueError: it is written otherwise, has no number, or more than 100,000.
    """
    numbers: list[int] = []
    for piece in array.partition("%")[0].split(","):
        ends, _, step = piece.partition(":")
        first, _, last = ends.partition("-")
        more = range(int(first), int(last or first) + 1, int(step or 1))
        if not more or len(numbers) + len(more) > _MOST_TASKS:
            raise ValueError(f"{piece!r} has no number, or too many")
        numbers.extend(more)
    return numbers
