"""Batches on their way to the device, loaded ahead of the step that uses them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch

from csr.data.batch import Batch

T = TypeVar("T")


class Clock:
    """Seconds spent waiting, by the name of the cause."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        """Add to the seconds of a cause."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def take(self, name: str) -> float:
        """Return the seconds of a cause since the last call, and begin again at 0."""
        return self.seconds.pop(name, 0.0)


def ahead(
    items: Iterator[T], *, device: torch.device, depth: int = 2, clock: Clock | None = None
) -> Iterator[T]:
    """Yield items that a thread produces, at most `depth` ahead; its exceptions are raised here.

    Args:
        items: iterated in the thread.
        device: of this rank, and so of the thread: CUDA's current device is one of each thread.
        depth: items that wait at most.
        clock: gets the seconds waited for an item as `data`.
    """
    box: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                box.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            if device.type == "cuda" and device.index is not None:
                torch.cuda.set_device(device)
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # passed on, raised where the items are used
            put("error", error)

    thread = threading.Thread(target=produce, name="csr-loader", daemon=True)
    thread.start()
    try:
        while True:
            began = time.perf_counter()
            kind, value = box.get()
            if clock is not None:
                clock.add("data", time.perf_counter() - began)
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()


def arriving(items: Iterator[T], *, cached: bool, device: torch.device, clock: Clock) -> Iterator[T]:
    """Yield batches for training, those of images from a thread ahead of it.

    Batches of cached features cost next to nothing. On a CPU a thread for them takes a core from the step,
    whose other cores wait for it: there they are produced when they are needed.

    Args:
        items: batches.
        cached: whether they hold cached features.
        device: on which the step runs.
        clock: gets the seconds waited for an item as `data`.
    """
    if cached and device.type == "cpu":
        return _in_turn(items, clock)
    return ahead(items, device=device, clock=clock)


def _in_turn(items: Iterator[T], clock: Clock) -> Iterator[T]:
    while True:
        began = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            clock.add("data", time.perf_counter() - began)
        yield item


def pinned(batch: Batch, device: torch.device) -> Batch:
    """Return the batch in pinned memory if it goes to a GPU; in a loader thread that delays no step."""
    if device.type != "cuda":
        return batch
    return cast(
        Batch,
        {
            k: v.pin_memory() if isinstance(v, torch.Tensor) and v.device.type == "cpu" else v
            for k, v in batch.items()
        },
    )


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device; from pinned memory, without waiting, if that is a GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device, moved without waiting (from pinned memory, see `pinned`)."""
    if device.type == "cpu":
        return batch
    moved = pinned(batch, device)
    return cast(
        Batch,
        {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in moved.items()},
    )
