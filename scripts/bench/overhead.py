"""Cost of an optimizer step through csr's DeepSpeed engine over the same step in a bare PyTorch loop.

One rank; blocks of bare and engine steps take turns in one process, with the same module, data, optimizer,
clipping, schedule and memory allocator settings. `compare.py` starts one such process per configuration.

    python scripts/bench/overhead.py --model_name resnet18 --image_size 128 --precision fp32
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import median

from csr.engine.device import local_device
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine
from csr.engine.process_group import start
from csr.model import CSR
from csr.runtime import distributed
from csr.stages.concept import ConceptStage

K, CLIP = 14, 1.0


def build_stage(model_name: str, image_size: int) -> ConceptStage:
    torch.manual_seed(0)
    model = CSR(K, backbone_type="timm", model_name=model_name, image_size=image_size)
    stage = ConceptStage(model, pos_weight_K=torch.ones(K), lr=1e-4, backbone_lr_scale=0.1, weight_decay=0.01)
    stage.freeze()
    return stage.to(local_device())


def bare_step(stage: ConceptStage, *, precision: str) -> Callable[[dict[str, Any]], None]:
    """Take one step as a plain loop does it."""
    parameters = [p for p in stage.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([g for g in stage.param_groups() if g["params"]], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    device = local_device()

    def step(batch: dict[str, Any]) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = stage(batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)

    return step


Step = Callable[[dict[str, Any]], object]


def engine_step(stage: ConceptStage, *, precision: str, batch_size: int) -> Step:
    parsed, name = load_ds_config(None, precision)
    sizes = {"batch_size": batch_size, "accumulation": 1, "world_size": 1}
    config = merge_ds_config(parsed, name=name, clip=CLIP, **sizes)
    engine = Engine(stage, param_groups=stage.param_groups(), ds_config=config, lr_factor=lambda step: 1.0)
    return engine.micro_step


def block(step: Step, batch: dict[str, Any], steps: int) -> float:
    """Return seconds per step."""
    began = time.perf_counter()
    for _ in range(steps):
        step(batch)
    if local_device().type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name", default="resnet18")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--blocks", type=int, default=11)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json")
    options = parser.parse_args()
    distributed.adopt_launcher_environment()
    start(10.0)
    stage, device = build_stage(options.model_name, options.image_size), local_device()
    bare = bare_step(copy.deepcopy(stage), precision=options.precision)
    engine = engine_step(stage, precision=options.precision, batch_size=options.batch_size)
    image = torch.randn(options.batch_size, 3, options.image_size, options.image_size, device=device)
    concept = (torch.rand(options.batch_size, K, device=device) > 0.5).float()
    batch = {"image": image, "concept": concept, "scale": {"concept": 1.0 / concept.numel()}}
    for step in (bare, engine):
        block(step, batch, max(2, options.steps // 2))  # warm up
    pairs = []
    for number in range(options.blocks):
        sides = [("bare", bare), ("engine", engine)]
        ordered = sides if number % 2 else sides[::-1]
        pairs.append({name: block(step, batch, options.steps) for name, step in ordered})
    result = {
        "bare_ms": 1000 * median([p["bare"] for p in pairs]),
        "engine_ms": 1000 * median([p["engine"] for p in pairs]),
        "overhead_percent": 100 * (median([p["engine"] / p["bare"] for p in pairs]) - 1),
    }
    print(json.dumps(result))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file)
    distributed.shut_down()


if __name__ == "__main__":
    main()
