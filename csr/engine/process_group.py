"""The process group that DeepSpeed opens, and its time limit."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import torch

from csr.engine import cpu
from csr.engine.device import device_kind, local_device
from csr.runtime import collective_time, distributed
from csr.runtime.errors import StoppedError
from csr.runtime.watchdog import watchdog
from csr.runtime.watchdog.heartbeat import last_resort_s

JOINED_WITHIN_MIN = 1.0  # interpreters of ranks start within this, however short the time-out is


def start(timeout_min: float) -> None:
    """Join the process group through DeepSpeed. Call once per process, before the first engine. Collective.

    The watchdog ends a run after `timeout_min`, with the reason. Collectives give up later, in case that it
    cannot: a rank may wait longer for one that is seen to move on.

    Raises:
        StoppedError: the ranks do not find each other.
    """
    distributed.adopt_launcher_environment()
    if device_kind() == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        cpu.share_cores(distributed.local_world_size())
        cpu.keep_freed_memory()
    else:
        torch.cuda.set_device(local_device())
    last_min = last_resort_s(60.0 * timeout_min) / 60.0
    os.environ.setdefault("DEEPSPEED_TIMEOUT", str(max(1, round(last_min))))
    deepspeed = _import_deepspeed()
    try:
        patience = timedelta(minutes=max(timeout_min, JOINED_WITHIN_MIN))
        deepspeed.init_distributed(timeout=patience, verbose=False)
    except RuntimeError as error:
        if not distributed.is_lost_peer(error):
            raise
        raise StoppedError(_not_joined(error)) from error
    distributed.give_up_after(last_min)
    _give_zero_group_a_timeout(last_min)
    collective_time.watch(deepspeed.comm.comm.cdb)
    distributed.make_host_group(timedelta(minutes=last_min))
    watchdog.start(timeout_min)


def _not_joined(error: Exception) -> str:
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return (
        f"rank {distributed.rank()} of {distributed.world_size()} on host {distributed.host()} did not meet "
        f"the others at {address} ({str(error).splitlines()[0][:200]}): all ranks must be started, at about "
        "the same time, and the port be free and reachable"
    )


def started() -> bool:
    return distributed.is_initialized()


def _import_deepspeed() -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # it calls torch's collectives by names that newer torch versions call old, at every step
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if deepspeed.get_accelerator().device_name() == "cpu":
        # an inference-only op: compiling it takes up to two minutes, needs g++ and leaves 66 MB in /dev/shm
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _give_zero_group_a_timeout(timeout_min: float) -> None:
    """Give ZeRO's clone of the world group a time-out: it is made without one (30 minutes on gloo)."""
    from deepspeed.utils import groups

    if groups._WORLD_GROUP is None:
        groups._WORLD_GROUP = distributed.new_group_of_all(timeout_min)
