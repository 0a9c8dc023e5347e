"""SyncBatchNorm: two processes with half a batch each compute what one does with the whole."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from csr.model.layers.sync_norm import SyncBatchNorm, SyncBatchNormAct, convert


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def small_net() -> nn.Module:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(i, o, 3, bias=False) for i, o in ((3, 4), (4, 5)))
    return nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(5, momentum=None))


def batch(num: int = 8) -> torch.Tensor:
    return 3.0 + torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def two_steps(net: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs, image gradients, parameter gradients and buffers after two training passes."""
    images = images.clone().requires_grad_()
    for _ in range(2):
        output = net(images)
        (output * torch.arange(output.shape[-1])).square().sum().backward()
    gradients = {f"grad {n}": p.grad for n, p in net.named_parameters()}
    buffers = {n: b.clone() for n, b in net.named_buffers()}
    return {"output": output.detach(), "image": images.grad, **gradients, **buffers}


def _rank_main(rank: int, port: int, pieces: list[torch.Tensor], results: Any) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    try:
        found = two_steps(convert(small_net()), pieces[rank])
        results.put((rank, {name: value.numpy() for name, value in found.items()}))
    finally:
        torch.distributed.destroy_process_group()


def on_two_ranks(pieces: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    context = multiprocessing.get_context("fork")
    results, port = context.Queue(), free_port()
    processes = [context.Process(target=_rank_main, args=(r, port, pieces, results)) for r in range(2)]
    for process in processes:
        process.start()
    got = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    return [{name: torch.from_numpy(value) for name, value in got[r].items()} for r in range(2)]


@pytest.mark.dist
@pytest.mark.parametrize("first", [4, 3])
def test_two_processes_equal_one_with_the_whole_batch(first):
    whole = batch()
    expected = two_steps(small_net(), whole)
    ranks = on_two_ranks([whole[:first], whole[first:]])
    for name, value in expected.items():
        if name in ("output", "image"):
            found = torch.cat([r[name] for r in ranks])
        elif name.startswith("grad"):
            found = ranks[0][name] + ranks[1][name]
        else:
            found = ranks[0][name]
            torch.testing.assert_close(found, ranks[1][name], atol=0, rtol=0)
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(found / scale, value / scale, atol=1e-6, rtol=1e-6, msg=f"{name} differs")


def test_in_one_process_it_is_plain_batch_norm():
    expected, found = two_steps(small_net(), batch()), two_steps(convert(small_net()), batch())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=0, rtol=0)


class SavedMoments(TorchDispatchMode):
    """Records the saved mean and inverse deviation that the backward kernel is given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.Tensor | None, torch.Tensor | None]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.native_batch_norm_backward.default:
            self.found.append((args[5], args[6]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_backward_kernel_gets_the_moments_of_all_ranks(monkeypatch, layout):
    """On CUDA its path for channels-last inputs ends in an assertion without them."""
    monkeypatch.setattr("csr.runtime.distributed.all_reduce_sum", lambda tensor: tensor)
    images = batch().to(memory_format=layout)
    norm, plain = SyncBatchNorm(3), nn.BatchNorm2d(3)
    gradients = []
    for compute in (norm._synced, plain):
        x = images.clone().requires_grad_()
        with SavedMoments() as saved:
            (compute(x) * torch.arange(8.0)).square().sum().backward()
        gradients.append(x.grad)
        if compute is not plain:
            mean_C, inverse_C = saved.found[0]
    torch.testing.assert_close(mean_C, images.mean((0, 2, 3)), atol=1e-6, rtol=1e-6)
    variance_C = images.var((0, 2, 3), correction=0)
    torch.testing.assert_close(inverse_C, 1 / (variance_C + norm.eps).sqrt(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_conversion_keeps_keys_parameters_and_outputs(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, global_pool="")
    plain = copy.deepcopy(net).eval()
    before = {key: id(p) for key, p in net.named_parameters()}
    converted = convert(net)
    assert list(converted.state_dict()) == list(plain.state_dict())
    assert {key: id(p) for key, p in converted.named_parameters()} == before
    kinds = {type(m) for m in converted.modules() if isinstance(m, nn.BatchNorm2d)}
    assert kinds and kinds <= {SyncBatchNorm, SyncBatchNormAct}
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(converted.eval()(images), plain(images), atol=0, rtol=0)


def test_converting_twice_changes_nothing():
    net = convert(small_net())
    modules = list(net.modules())
    assert list(convert(net).modules()) == modules


def test_a_norm_with_a_forward_of_its_own_is_refused():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return x

    with pytest.raises(ValueError, match="Own"):
        convert(nn.Sequential(Own(3)))
