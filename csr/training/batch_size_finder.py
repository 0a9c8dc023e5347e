"""`--batch_size auto`: the largest micro batch that fits every rank, the effective batch being kept.

A trial is a training step of stage 1, the heaviest, and an evaluation of twice as many images, beside the
memory that the engine will hold. On a GPU the sizes are tried, largest first. On a CPU nothing is driven out
of memory: two small sizes show how it grows.

Letters: B images of a micro batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from csr.config.option_field import AUTO
from csr.config.options import TrainConfig
from csr.engine import memory
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.runtime.sizes import gib_text
from csr.stages.base import Stage
from csr.training.data import Splits
from csr.training.feeder import Feeder

DEFAULT_EFFECTIVE = 32
# of the free memory: the rest is for what grows beside the step (caches of images, fragments, other programs)
CPU_SHARE, GPU_SHARE = 0.7, 0.9
MEASURED_WITH = (2, 4)
# an engine's bytes per trained number: fp32 masters, two moments, gradients in buckets (sharded: less)
ENGINE_BYTES = 16
BUCKET = 50_000_000


class Choice(NamedTuple):
    """Images per rank and micro step, micro steps per optimizer step, and why."""

    batch_size: int
    accumulation: int
    reason: str


def is_asked(config: TrainConfig) -> bool:
    """Return whether the options ask for `--batch_size auto`."""
    return config.optim.batch_size == AUTO


def provisional(config: TrainConfig, *, world: int) -> TrainConfig:
    """Return the options with the whole effective batch in one micro step: the search begins with it.

    Raises:
        InputError: the ranks cannot share the effective batch.
    """
    effective = config.optim.effective_batch or DEFAULT_EFFECTIVE
    if effective % world:
        raise InputError(
            f"--batch_size auto: the effective batch of {effective} cannot be divided by {world} ranks: give "
            f"--effective_batch {max(1, round(effective / world)) * world}"
        )
    return with_batch(config, effective // world, 1)


def with_batch(config: TrainConfig, batch_size: int, accumulation: int) -> TrainConfig:
    """Return the options with another micro batch; nothing is left to find."""
    optim = dataclasses.replace(
        config.optim, batch_size=batch_size, accumulation=accumulation, effective_batch=None
    )
    return dataclasses.replace(config, optim=optim)


def kept(manifest: dict[str, Any] | None, *, world: int) -> tuple[int, int] | None:
    """Return batch size and accumulation of the run that is resumed; None on another number of ranks."""
    if manifest is None or manifest["world_size"] != world:
        return None
    optim = manifest["options"]["optim"]
    return optim["batch_size"], optim["accumulation"]


def find(stage: Stage, data: Splits, *, share: int, precision: str, device: torch.device) -> Choice:
    """Measure on every rank, agree on the smallest answer. Collective.

    Args:
        stage: the first one, on `device`; its weights, statistics and gradients stay as they are.
        data: of the run.
        share: images per rank and optimizer step.
        precision: of training.
        device: of this rank.

    Raises:
        InputError: not one image fits, or memory cannot be measured here.
    """
    sizes = [size for size in range(share, 0, -1) if share % size == 0]
    trial = Trial(stage, data, precision=precision, device=device)
    with distributed.errors_agreed():
        with trial.quietly():
            measure = _on_gpu if device.type == "cuda" else _on_cpu
            fits, reason = measure(trial, sizes)
    smallest = -distributed.host_max([-fits])[0]
    if not smallest:
        raise InputError(
            f"--batch_size auto: not one image fits ({reason}): use a lighter backbone, smaller images, or "
            "--activation_checkpointing"
        )
    return Choice(smallest, share // smallest, reason)


class Trial:
    """Steps that change nothing.

    Args:
        stage, data, precision, device: as in `find`.
    """

    def __init__(self, stage: Stage, data: Splits, *, precision: str, device: torch.device) -> None:
        self.stage, self.precision, self.device = stage, precision, device
        self._feeder = Feeder(data, batch_size=1, accumulation=1, seed=0, max_windows=1, device=device)

    @property
    def engine_bytes(self) -> int:
        """Bytes that an engine will hold beside the weights."""
        trained = sum(p.numel() for p in self.stage.parameters() if p.requires_grad)
        return ENGINE_BYTES * trained + 2 * 4 * min(trained, BUCKET)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Run trials as training would freeze the stage, without collectives, compilation or traces in it."""
        learnable = [p for p in self.stage.parameters() if p.requires_grad]
        self.stage.freeze()
        for module in self.stage.modules():
            if isinstance(module, _BatchNorm):  # keeps as much for backward, and moves no statistics
                module.eval()
        try:
            with self.stage.model.backbone.uncompiled():
                yield
        finally:
            self.stage.train()
            self.stage.zero_grad(set_to_none=True)
            for parameter in learnable:
                parameter.requires_grad_(True)

    def __call__(self, size: int) -> None:
        """Run one training step on `size` images and one evaluation of twice as many."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32"):
            loss = self.stage(self._feeder.example(self.stage, None, num_images=size)).loss
        loss.backward()
        self.stage.zero_grad(set_to_none=True)
        with torch.no_grad(), torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32"):
            self.stage.predict(self._feeder.example(self.stage, None, num_images=2 * size))


def _on_gpu(trial: Trial, sizes: list[int]) -> tuple[int, str]:
    """Return the first size that does not run out of memory (0 if all do), and the reason in words."""
    free = memory.free_gpu_bytes(trial.device)
    reserved = trial.engine_bytes + int((1 - GPU_SHARE) * free)
    found = f"{gib_text(free)} free on the GPU"
    for number, size in enumerate(sizes):
        if _has_room(trial, size, reserved):
            larger = f", {sizes[number - 1]} do not fit" if number else ", the whole share of a rank"
            return size, found + larger
    return 0, found


def _has_room(trial: Trial, size: int, reserved: int) -> bool:
    try:
        held = torch.empty(reserved, dtype=torch.uint8, device=trial.device)
        trial(size)
        torch.cuda.synchronize(trial.device)
        del held
        return True
    except RuntimeError as error:
        if not memory.is_exhausted(error):
            raise
        return False
    finally:
        trial.stage.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _on_cpu(trial: Trial, sizes: list[int]) -> tuple[int, str]:
    """Return the largest size whose need, by two small ones, is within a rank's share of the memory."""
    free = memory.free_host_bytes() // distributed.local_world_size()
    allowed = int(CPU_SHARE * free) - trial.engine_bytes
    return largest(sizes, allowed=allowed, needed=_growth(trial), free=free)


def _growth(trial: Trial) -> Callable[[int], int]:
    """Return a function from a size to the bytes that its step needs."""
    few, more = MEASURED_WITH
    trial(1)  # libraries load, and keep, what they need once
    try:
        need_few, need_more = (memory.peak_of(partial(trial, size)) for size in (few, more))
    except OSError as error:
        raise InputError(
            f"--batch_size auto: this system does not report how much memory a step takes ({error}): "
            "give a number"
        ) from error
    # pages are coarse and small steps noisy: a step never grows slower than a tenth of its size
    slope = max((need_more - need_few) / (more - few), 0.1 * need_more / more, 1.0)
    fixed = max(0.0, need_more - slope * more)
    return lambda size: int(fixed + slope * size)


def largest(sizes: list[int], *, allowed: int, needed: Callable[[int], int], free: int) -> tuple[int, str]:
    """Return the largest size that needs no more than is allowed (0 if none), and the reason in words.

    Args:
        sizes: images of a micro batch.
        allowed: bytes for a step.
        needed: size -> bytes.
        free: bytes of a rank, for the words.
    """
    fitting = [size for size in sizes if needed(size) <= allowed]
    size = max(fitting, default=0)
    need = f"a step takes about {gib_text(needed(size or 1))} of {gib_text(free)} free per rank"
    larger = [other for other in sizes if other > size]
    if size and larger:
        return size, f"{need}, {min(larger)} images would take {gib_text(needed(min(larger)))}"
    return size, need + (", the whole share of a rank" if size else "")
