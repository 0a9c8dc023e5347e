"""Small stages, batches and engines for the tests of a GPU, and counts of the CPU's waits for it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine
from csr.model import CSR
from csr.model.layers.sync_norm import convert
from csr.stages.base import Stage
from csr.stages.concept import ConceptStage
from csr.stages.prototype import PrototypeStage
from csr.stages.task import TaskStage

K, T, M, B, SIDE = 3, 2, 4, 8, 64
ORDER = ("concept", "prototype", "task")


def model_of(name: str, device: torch.device, *, half_norms: bool = False) -> CSR:
    """Return a tiny model of a timm backbone with random weights."""
    torch.manual_seed(0)
    model = CSR(K, T, M, backbone_type="timm", model_name=name, image_size=SIDE, embedding_dim=8)
    if half_norms:
        convert(model, unknown_stay=True)
    return model.to(device)


def stage_of(name: str, model: CSR) -> Stage:
    """Return a stage that is frozen as it trains."""
    stage: Stage
    if name == "concept":
        ones_K = torch.ones(K)
        stage = ConceptStage(model, pos_weight_K=ones_K, lr=1e-3, backbone_lr_scale=0.1, weight_decay=0.1)
    elif name == "prototype":
        stage = PrototypeStage(
            model,
            gamma=10.0,
            lam=5.0,
            delta=0.1,
            margin_mode="softtriple",
            mask_present=True,
            restart=True,
            lr=1e-3,
            weight_decay=0.1,
            seed=0,
        )
    else:
        stage = TaskStage(model, loss="bce", pos_weight_T=torch.ones(T), lr=1e-3, weight_decay=0.1)
    stage.freeze()
    return stage.to(next(model.parameters()).device)


def batch_of(step: int, device: torch.device) -> dict[str, Any]:
    """Return a batch of noise that differs from step to step."""
    generator = torch.Generator().manual_seed(step)
    concept = torch.zeros(B, K)
    concept[torch.arange(B), (torch.arange(B) + step) % K] = 1.0
    tensors = {
        "image": torch.randn(B, 3, SIDE, SIDE, generator=generator),
        "concept": concept,
        "target": (torch.rand(B, T, generator=generator) > 0.5).float(),
    }
    scale = {"concept": 1 / (B * K), "vector": 1 / (B * K), "target": 1 / (B * T)}
    return {**{name: value.to(device) for name, value in tensors.items()}, "scale": scale}


def engine_of(
    stage: torch.nn.Module,
    precision: str,
    *,
    sharded: bool = False,
    clip: float = 1.0,
    lr: float | None = None,
) -> Engine:
    """Return an engine of batches of B images; `lr` gives one group of all parameters."""
    parsed, name = load_ds_config(None, precision)
    config = merge_ds_config(parsed, name=name, batch_size=B, accumulation=1, clip=clip, world_size=1)
    if lr is None:
        groups = stage.param_groups()
    else:
        groups = [{"params": list(stage.parameters()), "lr": lr, "weight_decay": 0.0}]
    return Engine(
        stage, param_groups=groups, ds_config=config, lr_factor=lambda step: 1.0, always_shards=sharded
    )


@contextlib.contextmanager
def stops_counted() -> Iterator[SimpleNamespace]:
    """Count stops inside: `device`, of the whole GPU, and `stream`, of one stream, with their places."""
    counted = SimpleNamespace(device=0, stream=0, places=[])
    original = torch.cuda.synchronize

    def synchronize(*_: Any) -> None:
        counted.device += 1

    torch.cuda.synchronize = synchronize  # type: ignore[assignment]
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield counted
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize = original
    found = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
    counted.stream = len(found)
    counted.places = sorted({f"{w.filename}:{w.lineno}" for w in found})
