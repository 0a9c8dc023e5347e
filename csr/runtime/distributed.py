"""The only file that talks to torch.distributed: gathers, sums, barriers; no-ops in one process.

The facts of `csr.runtime.ranks` are here under the same names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from csr.runtime.collective_time import IN_COLLECTIVES
from csr.runtime.errors import InputError, PreemptedError, StoppedError
from csr.runtime.progress import PROGRESS
from csr.runtime.ranks import adopt_launcher_environment as adopt_launcher_environment
from csr.runtime.ranks import host as host
from csr.runtime.ranks import is_main as is_main
from csr.runtime.ranks import local_rank as local_rank
from csr.runtime.ranks import local_world_size as local_world_size
from csr.runtime.ranks import rank as rank
from csr.runtime.ranks import world_size as world_size

T = TypeVar("T")


def is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _many() -> bool:
    return is_initialized() and dist.get_world_size() > 1


def barrier() -> None:
    if _many():
        with PROGRESS:
            dist.barrier(group=_host_group)


def shut_down() -> None:
    if is_initialized():
        dist.destroy_process_group()


def give_up_after(minutes: float) -> None:
    """Let collectives of the group of all ranks give up after so many minutes."""
    # torch.distributed.set_timeout is younger than the oldest torch that csr runs on
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(timedelta(minutes=minutes))
    global _patience_s
    _patience_s = 60.0 * minutes


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an exception means that a connection to another rank broke or a collective gave up."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL"))


_host_group: Any = None
_patience_s = 1800.0


def make_host_group(timeout: timedelta) -> None:
    """Make a group for numbers on the host beside NCCL's: agreeing on one waits for no device. Collective."""
    global _host_group
    if _many() and dist.get_backend() != "gloo":
        _host_group = dist.new_group(backend="gloo", timeout=timeout)


def host_max(values: list[int]) -> list[int]:
    """Return the largest of each value over the ranks. Collective; does not touch a device."""
    if not _many():
        return values
    tensor = torch.tensor(values, dtype=torch.int64)
    with PROGRESS, IN_COLLECTIVES:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=_host_group)
    return tensor.tolist()


def all_gather_object(value: T) -> list[T]:
    """Return the value of every rank, in rank order, on every rank."""
    if not _many():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    with PROGRESS:
        dist.all_gather_object(values, value, group=_host_group)
    return values


def broadcast_object(value: T) -> T:
    """Rank 0's value, on every rank."""
    if not _many():
        return value
    box: list[Any] = [value]
    with PROGRESS:
        dist.broadcast_object_list(box, src=0, group=_host_group)
    return box[0]


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum over ranks, in a new tensor."""
    total = tensor.detach().clone()
    if _many():
        with PROGRESS, IN_COLLECTIVES:
            dist.all_reduce(total)
    return total


def new_group_of_all(timeout_min: float) -> Any:
    """Return a second group of all ranks, whose collectives give up after so many minutes. Collective."""
    return dist.new_group(list(range(dist.get_world_size())), timeout=timedelta(minutes=timeout_min))


# the older name warns where the newer one exists
_all_gather_flat = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def join_partitions(own: torch.Tensor, group: Any) -> torch.Tensor:
    """Return the equally long flat pieces of a group's ranks, one after another, on every rank."""
    full = own.new_empty(own.numel() * dist.get_world_size(group))
    with PROGRESS:
        _all_gather_flat(full, own.detach().contiguous(), group=group)
    return full


def place_in(group: Any) -> tuple[int, int]:
    """Return this process's rank in a group, and how many there are."""
    return dist.get_rank(group), dist.get_world_size(group)


def average_buffers(module: torch.nn.Module) -> None:
    """Make floating-point buffers (BatchNorm statistics) the mean over ranks, others rank 0's."""
    if not _many():
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.copy_((all_reduce_sum(buffer.float()) / dist.get_world_size()).to(buffer.dtype))
        else:
            with PROGRESS:
                dist.broadcast(buffer, 0)


def broadcast_module(module: torch.nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers, in place."""
    if not _many():
        return
    with torch.no_grad(), PROGRESS:
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.data, 0)


@contextlib.contextmanager
def errors_agreed() -> Iterator[None]:
    """Raise on every rank the first rank's InputError or PreemptedError: no rank waits for one that has left.

    Each rank runs the body; the body must not call collectives. Other exceptions pass through.
    """
    raised: InputError | PreemptedError | None = None
    try:
        yield
    except (InputError, PreemptedError) as error:
        raised = error
    all_raised = [(type(e), str(e)) for e in all_gather_object(raised) if e is not None]
    if all_raised:
        kind, message = all_raised[0]
        raise kind(message)


def in_step(work: Callable[[], T]) -> T:
    """Call `work` on every rank, however much longer it takes on some than a collective's time-out.

    It runs in a thread and must not call collectives; the ranks exchange every second whether
    they are done. Its exceptions are raised on the rank that met them.

    Raises:
        StoppedError: on all ranks, if the work of none moves on (by `Progress.now`) for as long as a
            collective may take.
    """
    if not _many():
        return work()
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    seen: list[tuple[bool, str]] = []
    still = 0
    try:
        while True:
            states = all_gather_object((future.done(), PROGRESS.doing))
            if all(done for done, _ in states):
                return future.result()
            seen, still = states, still + 1 if states == seen else 0
            if still > _patience_s:  # about a second each; the same on all ranks
                where = "; ".join(f"rank {r}: {doing or 'waits'}" for r, (_, doing) in enumerate(states))
                raise StoppedError(
                    f"no rank moved on for {still} s ({where}): check the disks that they read"
                )
            wait([future], timeout=1.0)
    finally:
        pool.shutdown(wait=False)  # it may hang on a dead file system, for ever


def on_main(function: Callable[[], T]) -> T:
    """Call on rank 0 only, hand its result to every rank; an InputError or OSError reaches all of them."""
    result: Any = None
    failure: str | None = None
    if is_main():
        try:
            result = function()
        except (InputError, OSError) as error:
            failure = str(error)
    result, failure = broadcast_object((result, failure))
    if failure is not None:
        raise InputError(failure)
    return result
