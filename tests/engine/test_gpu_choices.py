"""Choices made for GPUs, as far as a CPU can show them: device, precision, time-outs, no stops."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from csr.cluster import machine_facts
from csr.engine import cpu, device, engine, process_group
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine, _arguments
from csr.runtime import distributed
from csr.runtime.errors import StoppedError


def gpus(
    monkeypatch: pytest.MonkeyPatch, number: int, capability: tuple[int, int] = (8, 0), name: str = "A100"
) -> None:
    """Let torch report GPUs that are not there."""
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda of=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda of=None: name)


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


def engine_of(stage: nn.Module, precision: str, *, sharded: bool = False) -> Engine:
    parsed, name = load_ds_config(None, precision)
    config = merge_ds_config(parsed, name=name, batch_size=2, accumulation=1, clip=1.0, world_size=1)
    groups = [{"params": list(stage.parameters()), "lr": 1e-3, "weight_decay": 0.0, "name": "all"}]
    return Engine(
        stage, param_groups=groups, ds_config=config, lr_factor=lambda step: 1.0, always_shards=sharded
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_step_stops_the_whole_device_for_a_timer(deepspeed, monkeypatch, precision):
    stops: list[int] = []
    engine = engine_of(Line(), precision)
    monkeypatch.setattr(deepspeed.get_accelerator(), "synchronize", lambda *_: stops.append(1))
    for _ in range(5):
        engine.micro_step({"x": torch.ones(2, 4), "factor": 1.0})
    assert stops == []
    engine.close()


@pytest.mark.parametrize("sharded", [False, True])
def test_fp16_steps_are_skipped_at_the_lowest_loss_scale_without_an_exception_of_deepspeeds(
    deepspeed, monkeypatch, sharded
):
    monkeypatch.setattr(deepspeed.get_accelerator(), "is_fp16_supported", lambda: True)
    engine = engine_of(Line(), "fp16", sharded=sharded)
    for _ in range(25):  # DeepSpeed itself ends at the 18th
        engine.micro_step({"x": torch.ones(2, 4), "factor": float("inf")})
    assert engine.skipped_steps == 25 and engine.loss_scale == 1.0
    engine.close()


def test_gpus_named_by_uuid_are_left_to_torch(deepspeed):
    from deepspeed.accelerator import cuda_accelerator

    assert cuda_accelerator.pynvml is None


def test_slices_of_a_gpu_are_named_where_ranks_share_one(monkeypatch):
    gpus(monkeypatch, 2, name="NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(StoppedError, match="NCCL joins no two MIG slices"):
        process_group._check_gpus(2)


@pytest.mark.parametrize("uuids, shared", [("abcd", None), ("abab", "0, 2"), ("abcc", "2, 3")])
def test_ranks_that_see_one_gpu_each_must_not_see_the_same(monkeypatch, uuids, shared):
    monkeypatch.setattr(distributed, "all_gather_object", lambda own: list(uuids))
    if shared is None:
        process_group._check_own_gpus("a")
        return
    with pytest.raises(StoppedError, match=f"^ranks {shared} have one GPU together .*--gpus-per-task"):
        process_group._check_own_gpus("a")


@pytest.fixture
def failing_start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that starts this process as a rank with a GPU whose backend raises an error."""
    gpus(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    benchmark = torch.backends.cudnn.benchmark

    def start(error: Exception) -> None:
        def init_distributed(**_: Any) -> None:
            raise error

        fake = SimpleNamespace(init_distributed=init_distributed)
        monkeypatch.setattr(process_group, "_import_deepspeed", lambda: fake)
        process_group.start(5)

    yield start
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize(
    "text, told",
    [
        ("NCCL error in: x.cpp:1, unhandled system error\nmore", "NCCL cannot connect the GPUs.*NCCL_DEBUG"),
        ("NCCL: Duplicate GPU detected : rank 0 and rank 1", "share 1 visible GPU.*one rank for each GPU"),
        ("gloo connectFullMesh failed", "did not meet the others at node0:1"),
    ],
)
def test_what_a_backend_says_at_the_start_becomes_one_line_with_the_right_advice(failing_start, text, told):
    with pytest.raises(StoppedError, match=told) as raised:
        failing_start(torch.distributed.DistBackendError(text))
    assert "\n" not in str(raised.value)


def test_other_errors_of_the_start_are_not_explained_away(failing_start):
    with pytest.raises(RuntimeError, match="^a bug$"):
        failing_start(RuntimeError("a bug"))


def test_a_gpu_rank_tries_convolutions_and_takes_its_share_of_the_cores(failing_start, monkeypatch):
    torch.backends.cudnn.benchmark = False
    shares: list[int] = []
    monkeypatch.setattr(cpu, "share_cores", shares.append)
    with pytest.raises(RuntimeError):
        failing_start(RuntimeError("far enough"))
    assert torch.backends.cudnn.benchmark and shares == [1]


def test_ranks_of_a_host_share_cores_for_compiling_too(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "set before")
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS")
    monkeypatch.setattr(cpu, "cores", lambda: 96)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    cpu.share_cores(1)
    assert "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ
    cpu.share_cores(8)
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "12"


def test_channels_last_kernels_take_the_same_steps_and_leave_plain_tensors_behind(monkeypatch):
    """On GPUs alone; the layout changes no number, and the optimizer's moments follow it."""
    if not process_group.started():
        process_group.start(5)
    states = []
    for wanted in (False, True):
        monkeypatch.setattr(engine, "prefers_channels_last", lambda _, wanted=wanted: wanted)
        torch.manual_seed(0)
        opened = engine_of(Convolution(), "fp32")
        weight = opened.stage.conv.weight
        for number in range(4):
            if number == 2:  # a checkpoint, continued in another engine
                saved = copy.deepcopy(opened.training_state())
                assert saved["weights"]["conv.weight"].is_contiguous()
                stage = opened.close()
                assert stage.conv.weight.is_contiguous()
                opened = engine_of(stage, "fp32")
                opened.load_training_state(saved)
                weight = opened.stage.conv.weight
            generator = torch.Generator().manual_seed(number)
            opened.micro_step({"x": torch.randn(2, 3, 8, 8, generator=generator)})
        moments = opened._deepspeed.optimizer.state[weight]
        assert weight.is_contiguous(memory_format=torch.channels_last) is wanted
        assert moments["exp_avg"].stride() == weight.stride() == moments["exp_avg_sq"].stride()
        states.append(opened.state_dict())
        opened.close()
    assert set(states[0]) == set(states[1])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-6, rtol=0)


class Convolution(nn.Module):
    """A stage of one convolution and one norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)

    def forward(self, batch: dict[str, torch.Tensor]) -> SimpleNamespace:
        x = batch["x"].to(memory_format=torch.channels_last)
        return SimpleNamespace(loss=(self.norm(self.conv(x)) * torch.arange(6.0)).square().mean())


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two GPUs, no option of the allocator, CUDA not begun; what is set in a test is removed after it."""
    gpus(monkeypatch, 2)
    for name in ALLOCATOR:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    return monkeypatch


ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def allocator_set() -> dict[str, str]:
    return {name: os.environ[name] for name in ALLOCATOR if name in os.environ}


@pytest.mark.parametrize(
    "version, name", [("2.6.0+cu124", 0), ("2.8.1", 0), ("2.9.0", 1), ("2.14.1+cu130", 1), ("3.0.0a0", 1)]
)
def test_memory_of_a_gpu_grows_in_place_by_the_name_that_this_torch_reads(unset, version, name):
    unset.setattr(torch, "__version__", version)
    device.use_growing_segments()
    assert allocator_set() == {ALLOCATOR[name]: "expandable_segments:True"}


@pytest.mark.parametrize("name", ALLOCATOR)
def test_options_of_the_allocator_by_the_user_stay(unset, name):
    unset.setenv(name, "max_split_size_mb:128")
    device.use_growing_segments()
    assert allocator_set() == {name: "max_split_size_mb:128"}


def test_nothing_is_set_for_a_cpu_nor_once_cuda_has_begun(unset):
    unset.setattr(torch.cuda, "is_initialized", lambda: True)
    device.use_growing_segments()
    unset.setattr(torch.cuda, "is_initialized", lambda: False)
    unset.setenv("DS_ACCELERATOR", "cpu")
    device.use_growing_segments()
    assert allocator_set() == {}


def test_torch_reads_the_allocators_options_when_it_first_needs_them(monkeypatch):
    """And not as it is imported: so they can be set after it."""
    code = (
        "import os, torch\n"
        "os.environ['PYTORCH_ALLOC_CONF'] = os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'nonsense:1'\n"
        "set_ = getattr(torch._C, '_accelerator_setAllocatorSettings', None)\n"
        "print('cannot be asked') if set_ is None else set_('expandable_segments:True')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "cannot be asked" in done.stdout:
        pytest.skip("this torch has no allocator to ask without a GPU")
    assert "nonsense" in done.stderr


def test_a_gpu_that_failed_is_told_from_other_errors():
    assert device.is_broken_by(RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors"))
    assert not device.is_broken_by(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert not device.is_broken_by(ValueError("CUDA error"))
