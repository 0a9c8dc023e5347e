"""Rank, world size and host of this process, from its environment.

Without torch, so that commands answer at once.
"""

from __future__ import annotations

import os
import re
import socket
import sys

from csr.runtime.errors import InputError

_FIRST_SPECIAL_STEP = 4_294_967_280  # of SLURM: batch script, extern step, and the shell that salloc opens
_SRUN_NAMES = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID"}
# parent of the tasks of a step; the parent of what is typed into a shell is the shell
_STARTER = "slurmstepd"


def adopt_launcher_environment() -> str | None:
    """Give RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT a value under every launcher.

    `deepspeed` and `torchrun` set all five. `srun` sets its own names, read only inside a step
    (SLURM_STEP_ID): the batch shell of a job and the shell that `salloc` opens have them too, without
    being ranks. In a shell by `srun --pty` (a terminal) there is nobody else to wait for: csr says so where
    the step has several tasks. A plain process is rank 0 of 1 on port 0: whichever is free when its store
    listens, so that no other process can take it in between.

    Returns:
        A line for the user, or None.

    Raises:
        InputError: a rank of several that does not know where the others are, or a step of several tasks of
            which one alone has the terminal.
    """
    env, notice = os.environ, None
    if "RANK" not in env and _is_task_of_srun():
        tasks = _tasks_of_step()
        if _has_terminal():
            notice = _check_terminal(tasks)
        else:
            for name, slurm_name in _SRUN_NAMES.items():
                env.setdefault(name, env.get(slurm_name, "0"))
            env.setdefault("WORLD_SIZE", str(tasks))
            _check_task(tasks)
    if "RANK" in env:
        missing = [n for n in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if n not in env]
        if missing and env.get("WORLD_SIZE", "1") != "1":
            raise InputError(f"RANK is set but {', '.join(missing)} is not: start csr with a launcher")
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    for name, value in alone.items():
        env.setdefault(name, value)
    return notice


def _is_task_of_srun() -> bool:
    step = os.environ.get("SLURM_STEP_ID", "")
    return "SLURM_PROCID" in os.environ and step.isdigit() and int(step) < _FIRST_SPECIAL_STEP


def _has_terminal() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def _tasks_of_step() -> int:
    """Return the tasks of this step; 1 where SLURM_NTASKS is unset or no number.

    `srun` sets it and SLURM_STEP_NUM_TASKS alike. Where they differ, one is left from the job or was set by
    the user, to run alone: the smaller one holds.
    """
    if not os.environ.get("SLURM_NTASKS", "").isdigit():
        return 1
    counts = (os.environ.get(name, "") for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"))
    return min(int(count) for count in counts if count.isdigit())


def _check_terminal(tasks: int) -> str | None:
    """Return that a step of several tasks, one of them with a terminal, is one process here, or refuse it."""
    if tasks == 1:
        return None
    number, step = os.environ["SLURM_PROCID"], os.environ["SLURM_STEP_ID"]
    if _parent().startswith(_STARTER):
        raise InputError(
            f"task {number} of the {tasks} tasks of SLURM step {step} has a terminal (srun --pty), the "
            f"others have none: it would train alone; for {tasks} ranks use srun -n {tasks} without --pty "
            "(or csr submit), for one process srun --pty -n 1"
        )
    return (
        f"csr: this terminal is task {number} of {tasks} of SLURM step {step} (srun --pty): going on as one "
        f"process, alone. For {tasks} ranks use srun -n {tasks} without --pty; SLURM_NTASKS=1 silences this"
    )


def _check_task(tasks: int) -> None:
    """Refuse a task of a step that cannot be a rank."""
    number, step = os.environ["SLURM_PROCID"], os.environ["SLURM_STEP_ID"]
    if number.isdigit() and int(number) >= tasks and os.environ["WORLD_SIZE"] == str(tasks):
        raise InputError(
            f"SLURM_PROCID is {number}, but SLURM_NTASKS says {tasks} in all: each task would train alone; "
            "start csr by srun itself, with its own number of tasks"
        )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing and os.environ["WORLD_SIZE"] != "1":
        raise InputError(
            f"this process is task {number} of {tasks} of SLURM step {step}, but {' and '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} not set: export them before srun (csr submit writes "
            "such a file), or unset SLURM_NTASKS to go on as one process, alone"
        )


def _parent() -> str:
    """Return the name of the program that started this process, "" where it cannot be known."""
    import psutil

    try:
        parent = psutil.Process().parent()
        return parent.name() if parent is not None else ""
    except psutil.Error:
        return ""


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of ranks on this host, from torchrun, deepspeed or srun; else the world size.

    `srun -N2 -n8` sets its tasks of each node alone, SLURM_NTASKS_PER_NODE only where that was asked for. A
    plain process in a job of `--ntasks-per-node=4` is alone: of SLURM's number never more than the world.
    """
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    of_nodes = _tasks_of_nodes(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if sum(of_nodes) == world_size():  # with another sum it tells of other processes than the ranks
        node = os.environ.get("SLURM_NODEID", "")
        if node.isdigit() and int(node) < len(of_nodes):
            return of_nodes[int(node)]
        if len(set(of_nodes)) == 1:
            return of_nodes[0]
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "")
    return min(int(tasks), world_size()) if tasks.isdigit() else world_size()


def _tasks_of_nodes(text: str) -> list[int]:
    """Return the tasks of each node of a step, from a text such as `3,2(x3),1`; none from any other."""
    parts = [re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part) for part in text.split(",")]
    if not all(parts):
        return []
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def host() -> str:
    return socket.gethostname()


def card_towards(address: str) -> str | None:
    """Return the network card whose address this host has towards another one (or itself), None if that is
    not known.
    """
    import psutil

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing, only looks up the way
            own = probe.getsockname()[0]
    except OSError:
        return None
    cards = psutil.net_if_addrs().items()
    return next((name for name, found in cards if own in [a.address for a in found]), None)


def is_main() -> bool:
    return rank() == 0


def name_card_to_gloo() -> None:
    """Let gloo, where ranks span hosts, use the card that leads to the others, unless the user names one.

    It takes the card of the host's own name otherwise, which Debian puts on loopback.
    """
    if world_size() <= local_world_size() or "MASTER_ADDR" not in os.environ:
        return
    card = card_towards(os.environ["MASTER_ADDR"])
    if card is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", card)
