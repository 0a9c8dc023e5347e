"""The device of a command and of a rank, and the arithmetic of inference on it."""

from __future__ import annotations

import contextlib

import pytest
import torch

from csr.engine import device, memory
from csr.runtime.errors import InputError
from csr.training.checkpoints import state


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def tf32():
    """TF32 as a container's environment may turn it on."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_without_a_gpu_everything_is_on_the_cpu(no_gpu):
    assert device.device_kind() == "cpu" and device.local_device() == torch.device("cpu")
    assert device.pick_device("auto") == device.pick_device("cpu") == torch.device("cpu")


def test_a_command_takes_the_gpu_that_is_named(two_gpus):
    assert device.pick_device("auto") == torch.device("cuda")
    assert device.pick_device("cuda:1") == torch.device("cuda", 1)
    assert device.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="--device cuda:2: this machine has 2 GPUs"):
        device.pick_device("cuda:2")


def test_ds_accelerator_cpu_asks_no_gpu_for_its_generator_or_memory(two_gpus, monkeypatch):
    """Either would open a context on a GPU that may be full, which is when one asks for the CPU."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    states = state.generators()

    def opened(*_: object) -> None:
        raise AssertionError("a context was opened")

    for name in ("get_rng_state", "set_rng_state", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, opened)
    assert set(state.generators()) == {"cpu"}
    state.set_generators({**states, "cuda": states["cpu"]})
    assert memory.memory_mib() > 1


@pytest.mark.parametrize("command", ["evaluate", "bench"])
def test_commands_without_a_process_group_compute_in_fp32_too(no_gpu, tf32, monkeypatch, command):
    from csr.cli import bench, evaluate

    wrong = {"evaluate": ["none-such", "--csv", "t.csv", "--dir", "d", "--out", "o"], "bench": ["peak"]}
    monkeypatch.setattr("csr.engine.flops.measured_peaks", lambda *_, **__: {})
    monkeypatch.setattr("csr.engine.matmul_peak.keep", lambda *_: {})
    with contextlib.suppress(InputError):
        {"evaluate": evaluate, "bench": bench}[command].main(wrong[command])
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    "name, message", [("gpu", "give auto, cpu"), ("cuda", "not on this"), ("meta", "not on this")]
)
def test_a_device_that_is_not_here_is_refused(no_gpu, name, message):
    with pytest.raises(InputError, match=f"--device {name}: {message}"):
        device.pick_device(name)


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_inference_computes_in_the_precision_and_keeps_no_graph(precision, dtype):
    layer = torch.nn.Linear(2, 2)
    with device.inference_precision(precision, torch.device("cpu")):
        output = layer(torch.ones(1, 2))
    assert output.dtype is dtype and not output.requires_grad
    assert torch.is_grad_enabled() and layer(torch.ones(1, 2)).dtype is torch.float32
