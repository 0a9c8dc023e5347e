"""Training steps for `gpu.py`: a bare loop and csr's engine on one network, timed in turns.

Letters: B images of a step, K concepts.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from measuring import median
from torch import nn
from torch.nn import functional as F

from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine
from csr.model import CSR
from csr.model.layers.sync_norm import convert
from csr.stages.concept import ConceptStage

K, CLIP = 14, 1.0
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Step = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Timed:
    """Of one step, medians: `ms` until the device is done, `launch_ms` until Python goes on, its stops.

    `step_mib` is what it takes on the device at its peak, beside what is there between steps.
    """

    ms: float
    launch_ms: float
    stops: float
    step_mib: float

    def record(self, *, images: int, flops_per_image: float, peak: float) -> dict[str, float]:
        """Return the numbers of a table's row; MFU is a share of the measured peak."""
        rate = 1000 * images / self.ms
        return {
            "images_per_s": round(rate, 1),
            "ms": round(self.ms, 3),
            "launch_ms": round(self.launch_ms, 3),
            "stops": round(self.stops, 2),
            "step_mib": round(self.step_mib, 1),
            "mfu_percent": round(100 * rate * flops_per_image / peak, 2),
        }


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def block(step: Step, batch: dict[str, Any], *, steps: int, device: torch.device) -> tuple[float, float]:
    """Return ms per step until the device is done, and until the last call returned."""
    wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step(batch)
    launched = time.perf_counter() - began
    wait(device)
    return 1000 * (time.perf_counter() - began) / steps, 1000 * launched / steps


@contextlib.contextmanager
def counted_stops(device: torch.device) -> Iterator[list[int]]:
    """Count inside how often the CPU waits for a GPU, for one stream of it or for the whole."""
    found = [0]
    if device.type != "cuda":
        yield found
        return
    original = torch.cuda.synchronize

    def synchronize(*_: Any) -> None:
        found[0] += 1

    setattr(torch.cuda, "synchronize", synchronize)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
        setattr(torch.cuda, "synchronize", original)
    found[0] += sum("synchronizing CUDA operation" in str(w.message) for w in caught)


def in_turns(
    steps: dict[str, Step], batch: dict[str, Any], *, blocks: int, each: int, device: torch.device
) -> dict[str, Timed]:
    """Time steps of one batch, a block of each in turn; the first one of each round changes."""
    peaks, stops = {}, {}
    for name, step in steps.items():
        block(step, batch, steps=max(3, each // 4), device=device)  # libraries choose, memory is taken
        held = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
        with counted_stops(device) as found:
            for _ in range(3):
                step(batch)
        stops[name] = found[0] / 3
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        peaks[name] = (peak - held) / 2**20
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(blocks):
        ordered = list(steps) if number % 2 else list(steps)[::-1]
        for name in ordered:
            rounds[name].append(block(steps[name], batch, steps=each, device=device))
    return {
        name: Timed(
            median([ms for ms, _ in found]), median([launch for _, launch in found]), stops[name], peaks[name]
        )
        for name, found in rounds.items()
    }


def batch_of(size: int, side: int, device: torch.device) -> dict[str, Any]:
    """Return a batch of noise as stage 1 takes it."""
    generator = torch.Generator().manual_seed(size)
    image = torch.randn(size, 3, side, side, generator=generator)
    concept = (torch.rand(size, K, generator=generator) > 0.5).float()
    return {"image": image.to(device), "concept": concept.to(device), "scale": {"concept": 1 / (size * K)}}


def sized(name: str, side: int) -> dict[str, int]:
    return {"img_size": side} if "vit" in name else {}


def bare_step(name: str, side: int, *, precision: str, device: torch.device) -> Step:
    """Return a step of the usual loop: timm's network with a linear head, autocast, fused AdamW, clipping."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=K, **sized(name, side)).to(device)
    convolutional = any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    layout = torch.channels_last if convolutional else torch.preserve_format
    net = net.to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step(batch: dict[str, Any]) -> None:
        with torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32"):
            logit_BK = net(batch["image"].contiguous(memory_format=layout))
        loss = F.binary_cross_entropy_with_logits(logit_BK.float(), batch["concept"])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def concept_stage(
    name: str, side: int, *, device: torch.device, half: bool = False, compiled: bool = False
) -> ConceptStage:
    """Return stage 1 around a network of timm, with norms as `csr train` builds them."""
    torch.manual_seed(0)
    model = CSR(K, backbone_type="timm", model_name=name, image_size=side)
    if half:
        convert(model, unknown_stay=True)
    if compiled:
        model.backbone.compile_training()
    ones_K = torch.ones(K)
    stage = ConceptStage(model, pos_weight_K=ones_K, lr=1e-4, backbone_lr_scale=0.1, weight_decay=0.01)
    stage.freeze()
    return stage.to(device)


def use_timers(engine: Engine) -> None:
    """Switch the timer on that DeepSpeed starts by default: it stops the device twice a micro step."""
    engine._deepspeed.tput_timer.config.enabled = True


def engine_of(stage: Any, *, precision: str, batch_size: int, sharded: bool = False) -> Engine:
    """Return csr's engine; `sharded` keeps ZeRO where one rank would do without."""
    parsed, name = load_ds_config(None, precision)
    sizes = {"batch_size": batch_size, "accumulation": 1, "world_size": 1}
    config = merge_ds_config(parsed, name=name, clip=CLIP, **sizes)
    return Engine(
        stage,
        param_groups=stage.param_groups(),
        ds_config=config,
        lr_factor=lambda step: 1.0,
        always_shards=sharded,
    )
