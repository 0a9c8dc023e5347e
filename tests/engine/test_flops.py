"""FLOPs against counts by hand, peaks that are numbers, and the command."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from csr.cli import bench
from csr.engine import flops
from csr.runtime.errors import InputError


class Tiny(nn.Module):
    """A frozen and a trained linear layer with BatchNorm between: forward 2 products, backward 1."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.norm, self.head = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 7)
        self.frozen.requires_grad_(False)
        self.norm.requires_grad_(False)

    def forward(self, batch):
        return SimpleNamespace(loss=self.head(self.norm(self.frozen(batch["x"]))).sum())


def test_training_flops_are_counted_by_hand_and_nothing_moves():
    stage = Tiny().train()
    before = {k: v.clone() for k, v in stage.state_dict().items()}
    count = flops.training_flops(stage, {"x": torch.randn(4, 3)})
    # forward 2*4*3*5 and 2*4*5*7; backward: the head's weight alone, 2*4*5*7
    assert count == 2 * 4 * (3 * 5 + 5 * 7 + 5 * 7)
    assert stage.training and all(p.grad is None for p in stage.parameters())
    assert all(torch.equal(v, before[k]) for k, v in stage.state_dict().items())


def test_attention_is_counted():
    q = torch.randn(1, 2, 6, 8)
    count = flops.count_flops(lambda: F.scaled_dot_product_attention(q, q, q))
    assert count == 2 * (2 * 2 * 6 * 6 * 8)


def test_peaks_are_measured_for_every_precision_of_a_cpu(monkeypatch):
    monkeypatch.setattr(flops, "CPU_SIDES", (32, 64))
    peaks = flops.measured_peaks(torch.device("cpu"), seconds=0.01)
    assert set(peaks) == {"fp32", "bf16"} and all(1e6 < rate < 1e16 for rate in peaks.values())


@pytest.mark.parametrize("rate", [1e12, 1e9, 1e7], ids=["fast", "slow", "emulated"])
def test_a_measurement_ends_in_time_however_slow_the_device_is(monkeypatch, rate):
    """A device of so many FLOP/s, on a clock of its own: one large product would take 17 s on a slow one."""
    clock = [0.0]
    monkeypatch.setattr(flops.time, "perf_counter", lambda: clock[0])

    def multiply(a, b, out):
        clock[0] += 2.0 * a.shape[0] ** 3 / rate

    monkeypatch.setattr(flops.torch, "mm", multiply)
    assert flops.fastest_product(torch.device("cpu"), torch.float32, seconds=2.0) == pytest.approx(rate)
    assert clock[0] <= 2.0 * 1.2


def test_the_peak_of_a_gpu_is_not_that_of_launching_its_kernels(monkeypatch):
    """Every product takes 5 us to launch, beside its arithmetic at 600 TFLOP/s."""
    clock = [0.0]
    monkeypatch.setattr(flops.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(flops, "_wait", lambda device: None)
    monkeypatch.setattr(flops.torch, "Generator", lambda device: torch.default_generator.__class__("cpu"))
    monkeypatch.setattr(flops.torch, "randn", lambda *size, **_: torch.empty(size, device="meta"))

    def multiply(a, b, out):
        clock[0] += 5e-6 + 2.0 * a.shape[0] ** 3 / 6e14

    monkeypatch.setattr(flops.torch, "mm", multiply)
    rate = flops.fastest_product(torch.device("cuda"), torch.bfloat16, seconds=0.3)
    assert rate == pytest.approx(6e14, rel=0.02) and clock[0] <= 0.3 * 1.2


def test_a_measurement_draws_nothing_of_the_runs_numbers():
    before = torch.get_rng_state()
    flops.matmul_rate(torch.device("cpu"), torch.float32, side=16, seconds=0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_block_that_another_process_slowed_down_does_not_count(monkeypatch):
    clock, calls = [0.0], [0]
    monkeypatch.setattr(flops.time, "perf_counter", lambda: clock[0])

    def multiply(a, b, out):
        calls[0] += 1
        clock[0] += 0.1 if calls[0] == 5 else 1.0

    monkeypatch.setattr(flops.torch, "mm", multiply)
    rate = flops.matmul_rate(torch.device("cpu"), torch.float32, side=10, seconds=0.0)
    assert calls[0] == 8 and rate == pytest.approx(2 * 10**3 / 0.1)


def test_the_command_prints_and_writes_the_peaks(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(flops, "CPU_SIDES", (32,))
    assert bench.main(["peak", "--seconds", "0.01", "--json", str(tmp_path / "peak.json")]) == 0
    assert "TFLOP/s" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "peak.json").read_text())["peak_flops_per_s"]) >= {"fp32", "bf16"}
    unwritable = ["peak", "--seconds", "0.01", "--json", str(tmp_path)]
    for wrong in (["peak", "--seconds", "0"], ["speed"], unwritable):
        with pytest.raises(InputError):
            bench.main(wrong)
