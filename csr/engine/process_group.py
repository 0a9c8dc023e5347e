"""The process group that DeepSpeed opens, and its time limit."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch

from csr.engine import cpu
from csr.engine.device import device_kind, is_mig, local_device, try_kernels, use_true_fp32
from csr.runtime import collective_time, distributed
from csr.runtime.errors import StoppedError
from csr.runtime.ranks import name_card_to_gloo
from csr.runtime.startup import collector
from csr.runtime.watchdog import watchdog
from csr.runtime.watchdog.heartbeat import last_resort_s

# of NCCL and CUDA, when two ranks take one GPU or a rank asks for one that it cannot see
SHARED_GPU = ("Duplicate GPU", "invalid device ordinal", "out of range")
JOINED_WITHIN_MIN = 1.0  # interpreters of ranks start within this, however short the time-out is


def load() -> None:
    """Import DeepSpeed, which `start` does too: to be called while something else goes on."""
    if device_kind() == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _import_deepspeed()


def start(timeout_min: float) -> None:
    """Join the process group through DeepSpeed. Call once per process, before the first engine. Collective.

    The watchdog ends a run after `timeout_min`, with the reason. Collectives give up later, in case that it
    cannot: a rank may wait longer for one that is seen to move on.

    Raises:
        StoppedError: the ranks do not find each other, or there are fewer GPUs than ranks.
    """
    distributed.adopt_launcher_environment()
    cpu.share_cores(distributed.local_world_size())
    name_card_to_gloo()
    if device_kind() == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        cpu.keep_freed_memory()
    else:
        _check_gpus(torch.cuda.device_count())
        torch.cuda.set_device(local_device())
        use_true_fp32()
        try_kernels()
    # a minute behind the watchdog: a collective that gives up under NCCL aborts the process without a line
    last_min = last_resort_s(60.0 * timeout_min) / 60.0 + 1.0
    os.environ.setdefault("DEEPSPEED_TIMEOUT", str(max(1, round(last_min))))
    deepspeed = _import_deepspeed()
    try:
        patience = timedelta(minutes=max(timeout_min, JOINED_WITHIN_MIN))
        with _device_index_as_local_rank():
            deepspeed.init_distributed(timeout=patience, verbose=False)
    except (RuntimeError, ValueError) as error:
        if any(sign in str(error) for sign in SHARED_GPU):
            raise StoppedError(f"{_more_ranks_than_gpus()} ({str(error).splitlines()[0][:120]})") from error
        if not distributed.is_lost_peer(error):
            raise
        raise StoppedError(_nccl_failed(error) if "NCCL" in str(error) else _not_joined(error)) from error
    distributed.give_up_after(last_min)
    distributed.make_host_group(timedelta(minutes=last_min))
    if device_kind() == "cuda":
        _check_own_gpus(str(torch.cuda.get_device_properties(local_device()).uuid))
    _give_zero_group_a_timeout(last_min)
    collective_time.watch(deepspeed.comm.comm.cdb)
    watchdog.start(timeout_min)


def _check_gpus(visible: int) -> None:
    """Refuse more ranks than GPUs on a host; with one visible GPU each rank may have another one (SLURM)."""
    if 1 < visible < distributed.local_world_size():
        raise StoppedError(_more_ranks_than_gpus())


def _check_own_gpus(uuid: str) -> None:
    """Refuse ranks that see one GPU each, and the same one. Collective, by way of the hosts."""
    ranks_of: dict[str, list[int]] = {}
    for rank, other in enumerate(distributed.all_gather_object(uuid)):
        ranks_of.setdefault(other, []).append(rank)
    for shared, ranks in ranks_of.items():
        if len(ranks) > 1:
            raise StoppedError(
                f"ranks {', '.join(map(str, ranks[:8]))} have one GPU together ({shared}): start one rank "
                "for each GPU, and check CUDA_VISIBLE_DEVICES and srun's --gpus-per-task and --gpu-bind"
            )


def _more_ranks_than_gpus() -> str:
    slices = any(is_mig(torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count()))
    return (
        f"{distributed.local_world_size()} ranks on host {distributed.host()} share "
        f"{torch.cuda.device_count()} visible GPU(s): start one rank for each GPU, and check "
        f"CUDA_VISIBLE_DEVICES{'; NCCL joins no two MIG slices of one GPU' if slices else ''}"
    )


@contextlib.contextmanager
def _device_index_as_local_rank() -> Iterator[None]:
    """Let DeepSpeed, which takes LOCAL_RANK for the GPU's index, join with the index of this device."""
    index = local_device().index
    before = os.environ.get("LOCAL_RANK")
    if index is None or before is None:
        yield
        return
    os.environ["LOCAL_RANK"] = str(index)
    try:
        yield
    finally:
        os.environ["LOCAL_RANK"] = before


def _not_joined(error: Exception) -> str:
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return (
        f"rank {distributed.rank()} of {distributed.world_size()} on host {distributed.host()} did not meet "
        f"the others at {address} ({str(error).splitlines()[0][:200]}): all ranks must be started, at about "
        "the same time, and the port be free and reachable"
    )


def _nccl_failed(error: Exception) -> str:
    return (
        f"rank {distributed.rank()} of {distributed.world_size()} on host {distributed.host()}: NCCL cannot "
        f"connect the GPUs ({str(error).splitlines()[0][:200]}): NCCL_DEBUG=INFO tells more; check "
        "NCCL_SOCKET_IFNAME, the room in /dev/shm, and that all hosts have the same driver"
    )


def started() -> bool:
    return distributed.is_initialized()


def _import_deepspeed() -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with collector.paused():
        import deepspeed
        import deepspeed.ops
        from deepspeed.accelerator import cuda_accelerator
        from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # it calls torch's collectives by names that newer torch versions call old, at every step
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # it reads CUDA_VISIBLE_DEVICES as numbers; without NVML it asks torch, which knows the UUIDs of GPUs
    # and MIG
    cuda_accelerator.pynvml = None
    if deepspeed.get_accelerator().device_name() == "cpu":
        # an inference-only op: compiling it takes up to two minutes, needs g++ and leaves 66 MB in /dev/shm
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _give_zero_group_a_timeout(timeout_min: float) -> None:
    """Give ZeRO's clone of the world group a time-out: it is made without one (30 minutes on gloo)."""
    from deepspeed.utils import groups

    # one that is there belongs to a process group that was closed
    groups._WORLD_GROUP = distributed.new_group_of_all(timeout_min)
