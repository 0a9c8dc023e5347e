"""The optimizer of a single rank: torch's AdamW after torch's clipping, and steps that are not taken."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from csr.engine.clipped_adamw import ClippedAdamW
from csr.engine.device import local_device


@pytest.fixture(autouse=True)
def _there(device: torch.device) -> None:
    """Tests are the same on a GPU: networks are made there."""


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return net.to(local_device())


def groups(net: nn.Module) -> list[dict]:
    matrices, vectors = ([p for p in net.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False))
    return [
        {"params": matrices, "lr": 0.1, "weight_decay": 0.1},
        {"params": vectors, "lr": 0.05, "weight_decay": 0.0},
    ]


def set_gradients(net: nn.Module, step: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in net.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator).to(parameter.device)


@pytest.mark.parametrize("clip", [0.0, 0.7, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_steps_are_those_of_torch_after_clip_grad_norm(clip, scale):
    ours = network()
    reference = copy.deepcopy(ours)
    optimizer, plain = ClippedAdamW(groups(ours), clip=clip), torch.optim.AdamW(groups(reference))
    for step in range(5):
        set_gradients(ours, step, scale)
        set_gradients(reference, step, scale)
        norm = nn.utils.clip_grad_norm_(reference.parameters(), clip or float("inf"))
        optimizer.step()
        plain.step()
        assert optimizer._global_grad_norm == pytest.approx(float(norm), rel=1e-6)
    for own, other in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing_and_counts_no_step(bad):
    net = network()
    optimizer = ClippedAdamW(groups(net), clip=1.0)
    set_gradients(net, 0, 1.0)
    optimizer.step()
    before = copy.deepcopy([net.state_dict(), optimizer.state_dict()])
    set_gradients(net, 1, 1.0)
    net[0].weight.grad[0, 0] = bad
    optimizer.step()
    assert optimizer.overflow
    for old, new in zip(before[0].values(), net.state_dict().values(), strict=True):
        assert torch.equal(old, new)
    for key, old in before[1]["state"].items():
        assert all(torch.equal(old[name], optimizer.state_dict()["state"][key][name]) for name in old)
    set_gradients(net, 1, 1.0)
    optimizer.step()
    assert not optimizer.overflow and not torch.equal(before[0]["0.weight"], net[0].weight)


def test_a_step_that_clips_reads_one_number_and_sends_none(monkeypatch):
    """A number of the host put on a GPU would be a second stop."""
    net = network()
    optimizer = ClippedAdamW(groups(net), clip=0.01)
    set_gradients(net, 0, 1.0)
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in net.parameters()]))
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    monkeypatch.setattr(torch, "tensor", None)
    with Reads() as reads:
        optimizer.step()
    assert reads.count == 1
    assert float(optimizer.grad_scale) == pytest.approx((norm + 1e-6) / 0.01)


class Reads(TorchDispatchMode):
    """Counts the numbers that Python reads out of tensors: on a GPU each one waits for it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))
