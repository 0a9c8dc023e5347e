"""Rank, world size and host of this process, from its environment.

Without torch, so that commands answer at once.
"""

from __future__ import annotations

import os
import socket
import sys

from csr.runtime.errors import InputError

_FIRST_SPECIAL_STEP = 4_294_967_280  # of SLURM: batch script, extern step, and the shell that salloc opens
_SRUN_NAMES = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}


def adopt_launcher_environment() -> None:
    """Give RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT a value under every launcher.

    `deepspeed` and `torchrun` set all five. `srun` sets its own names, read only inside a step
    (SLURM_STEP_ID): the batch shell of a job and the shell that `salloc` opens have them too, without
    being ranks, and in a shell by `srun --pty` (a terminal) there is nobody else to wait for. A plain process
    is rank 0 of 1 on port 0: whichever is free when its store listens, so that no other process can
    take it in between.
    """
    env = os.environ
    if "RANK" not in env and _is_task_of_srun():
        for name, slurm_name in _SRUN_NAMES.items():
            env.setdefault(name, env[slurm_name])
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


def _is_task_of_srun() -> bool:
    step = os.environ.get("SLURM_STEP_ID", "")
    if "SLURM_PROCID" not in os.environ or not step.isdigit() or int(step) >= _FIRST_SPECIAL_STEP:
        return False
    return not (sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty())


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of ranks on this host, from torchrun, deepspeed or srun; else the world size.

    A plain process in a job of `--ntasks-per-node=4` is alone: of SLURM's number never more than the world.
    """
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "")
    return min(int(tasks), world_size()) if tasks.isdigit() else world_size()


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
