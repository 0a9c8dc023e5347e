"""Choices made for GPUs, as far as a CPU can show them: device, precision, time-outs, no stops."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from csr.cluster import machine_facts
from csr.engine import cpu, device, process_group
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine, _arguments
from csr.runtime import distributed
from csr.runtime.errors import StoppedError


def gpus(monkeypatch: pytest.MonkeyPatch, number: int, capability: tuple[int, int] = (8, 0)) -> None:
    """Let torch report GPUs that are not there."""
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda of=None: capability)


def test_ds_accelerator_forces_the_cpu_where_a_gpu_is_visible(monkeypatch):
    gpus(monkeypatch, 2)
    assert device.device_kind() == "cuda" and device.pick_device().type == "cuda"
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert device.device_kind() == "cpu" and device.local_device() == torch.device("cpu")
    assert device.pick_device() == torch.device("cpu")


@pytest.mark.parametrize(
    "visible, local_rank, index",
    [(1, 0, 0), (1, 3, 0), (4, 3, 3)],
    ids=["one", "one each under srun", "four"],
)
def test_deepspeed_gets_the_index_of_this_ranks_gpu_and_not_its_local_rank(
    monkeypatch, visible, local_rank, index
):
    gpus(monkeypatch, visible)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert device.local_device() == torch.device("cuda", index)
    assert _arguments(device.local_device()).device_rank == index
    with process_group._device_index_as_local_rank():
        assert os.environ["LOCAL_RANK"] == str(index)
    assert os.environ["LOCAL_RANK"] == str(local_rank)


def test_a_cpu_is_named_to_nobody(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _arguments(torch.device("cpu")) is None
    with process_group._device_index_as_local_rank():
        assert os.environ["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(
    "visible, local_world, refused", [(1, 4, False), (4, 4, False), (8, 4, False), (2, 4, True)]
)
def test_more_ranks_than_gpus_are_refused_with_one_line(monkeypatch, visible, local_world, refused):
    gpus(monkeypatch, visible)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_world))
    if not refused:
        process_group._check_gpus(visible)
        return
    with pytest.raises(StoppedError, match="^4 ranks on host .* share 2 visible GPU.*one rank for each GPU"):
        process_group._check_gpus(visible)


@pytest.mark.parametrize(
    "capability, expected", [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_bf16_is_taken_from_ampere_on_and_emulation_does_not_count(monkeypatch, capability, expected):
    gpus(monkeypatch, 1, capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # it counts emulation
    assert device.computes_bf16() is expected
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(name="x", total_memory=2**30)
    )
    assert machine_facts.devices()["bf16"] is expected


def test_without_a_gpu_the_cpu_decides(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(cpu, "computes_bf16", lambda has=has: has)
        assert device.computes_bf16() is has


def test_fp32_products_are_not_rounded_to_tf32():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device.pick_device("cpu")
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


def test_objects_travel_in_the_group_of_the_hosts_and_not_through_gpu_memory(monkeypatch):
    seen: list[Any] = []
    group = object()
    monkeypatch.setattr(distributed, "_host_group", group)
    monkeypatch.setattr(distributed, "_many", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    for name in ("all_gather_object", "broadcast_object_list", "barrier"):
        monkeypatch.setattr(distributed.dist, name, lambda *_, group=None, **__: seen.append(group))
    distributed.all_gather_object("a")
    distributed.broadcast_object("a")
    distributed.barrier()
    assert seen == [group] * 3


class Line(nn.Module):
    """A stage of one weight whose loss is the value of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1, bias=False)

    def forward(self, batch: dict[str, torch.Tensor]) -> SimpleNamespace:
        loss = self.linear(batch["x"].to(self.linear.weight.dtype)).float().mean() * batch["factor"]
        return SimpleNamespace(loss=loss)


@pytest.fixture(scope="module")
def deepspeed() -> Any:
    process_group.start(5)
    import deepspeed

    return deepspeed


def engine_of(stage: nn.Module, precision: str) -> Engine:
    parsed, name = load_ds_config(None, precision)
    config = merge_ds_config(parsed, name=name, batch_size=2, accumulation=1, clip=1.0, world_size=1)
    groups = [{"params": list(stage.parameters()), "lr": 1e-3, "weight_decay": 0.0, "name": "all"}]
    return Engine(stage, param_groups=groups, ds_config=config, lr_factor=lambda step: 1.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_stops_the_whole_device_for_a_timer(deepspeed, monkeypatch, precision):
    stops: list[int] = []
    engine = engine_of(Line(), precision)
    monkeypatch.setattr(deepspeed.get_accelerator(), "synchronize", lambda *_: stops.append(1))
    for _ in range(5):
        engine.micro_step({"x": torch.ones(2, 4), "factor": 1.0})
    assert stops == []
    engine.close()


def test_fp16_steps_are_skipped_at_the_lowest_loss_scale_without_an_exception_of_deepspeeds(
    deepspeed, monkeypatch
):
    monkeypatch.setattr(deepspeed.get_accelerator(), "is_fp16_supported", lambda: True)
    engine = engine_of(Line(), "fp16")
    for _ in range(25):  # DeepSpeed itself ends at the 18th
        engine.micro_step({"x": torch.ones(2, 4), "factor": float("inf")})
    assert engine.skipped_steps == 25 and engine.loss_scale == 1.0
    engine.close()


def test_gpus_named_by_uuid_are_left_to_torch(deepspeed):
    from deepspeed.accelerator import cuda_accelerator

    assert cuda_accelerator.pynvml is None
