"""SyncBatchNorm: two processes with half a batch each compute what one does with the whole."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from csr.model.layers.sync_norm import (
    SyncBatchNorm,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    SyncBatchNormAct,
    _backward_on_cuda,
    convert,
)
from csr.runtime import distributed
from csr.runtime.errors import InputError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def small_net() -> nn.Module:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(i, o, 3, bias=False) for i, o in ((3, 4), (4, 5)))
    return nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(5, momentum=None))


class EveryShape(nn.Module):
    """Norms of volumes, maps, sequences (one of them not contiguous) and vectors, one after another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.volumes, self.maps = nn.BatchNorm3d(3), nn.BatchNorm2d(6)
        self.rows, self.columns = nn.BatchNorm1d(6, momentum=None), nn.BatchNorm1d(32)
        self.linear, self.vectors = nn.Linear(192, 8, bias=False), nn.BatchNorm1d(8, affine=False)
        for norm in (self.volumes, self.maps, self.rows, self.columns):
            nn.init.uniform_(norm.weight)

    def forward(self, x_B3HW: torch.Tensor) -> torch.Tensor:
        volumes = self.volumes(x_B3HW.unflatten(2, (2, 4))).tanh()
        rows = self.rows(self.maps(volumes.flatten(1, 2)).tanh().flatten(2)).tanh()
        columns = self.columns(rows.transpose(1, 2)).tanh()
        return self.vectors(self.linear(columns.flatten(1))).tanh()


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


def _rank_main(
    rank: int, port: int, make: Callable[[], nn.Module], pieces: list[torch.Tensor], results: Any
) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    try:
        found = two_steps(convert(make()), pieces[rank])
        results.put((rank, {name: value.numpy() for name, value in found.items()}))
    finally:
        torch.distributed.destroy_process_group()


def on_two_ranks(make: Callable[[], nn.Module], pieces: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    distributed.shut_down()  # a group that an engine's test opened here would be inherited
    context = multiprocessing.get_context("fork")
    results, port = context.Queue(), free_port()
    processes = [context.Process(target=_rank_main, args=(r, port, make, pieces, results)) for r in range(2)]
    for process in processes:
        process.start()
    got = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    return [{name: torch.from_numpy(value) for name, value in got[r].items()} for r in range(2)]


@pytest.mark.dist
@pytest.mark.parametrize(("make", "near"), [(small_net, 1e-6), (EveryShape, 1e-5)])  # 2 and 5 norms deep
@pytest.mark.parametrize("first", [4, 3])
def test_two_processes_equal_one_with_the_whole_batch(first, make, near):
    whole = batch()
    expected = two_steps(make(), whole)
    assert all(value.abs().max() > 1e-3 for value in expected.values())
    ranks = on_two_ranks(make, [whole[:first], whole[first:]])
    for name, value in expected.items():
        if name in ("output", "image"):
            found = torch.cat([r[name] for r in ranks])
        elif name.startswith("grad"):
            found = ranks[0][name] + ranks[1][name]
        else:
            found = ranks[0][name]
            torch.testing.assert_close(found, ranks[1][name], atol=0, rtol=0)
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(found / scale, value / scale, atol=near, rtol=near, msg=f"{name} differs")


@pytest.mark.parametrize("make", [small_net, EveryShape])
def test_in_one_process_it_is_plain_batch_norm(make):
    expected, found = two_steps(make(), batch()), two_steps(convert(make()), batch())
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
    norm, plain = SyncBatchNorm2d(3), nn.BatchNorm2d(3)
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
    assert kinds and kinds <= {SyncBatchNorm2d, SyncBatchNormAct}
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(converted.eval()(images), plain(images), atol=0, rtol=0)


def test_converting_twice_changes_nothing():
    net = convert(small_net())
    modules = list(net.modules())
    assert list(convert(net).modules()) == modules


def test_the_norms_of_levit_run_over_ranks_and_keep_its_outputs():
    """Its linear layers have norms of vectors, its convolutions norms of maps."""
    torch.manual_seed(0)
    net = timm.create_model("levit_128s", num_classes=0, img_size=64)
    plain = copy.deepcopy(net)
    norms = [m for m in convert(net).modules() if isinstance(m, _BatchNorm)]
    kinds = Counter(type(norm).__mro__[2] for norm in norms if isinstance(norm, SyncBatchNorm))
    assert len(norms) == kinds[nn.BatchNorm1d] + kinds[nn.BatchNorm2d] and kinds[nn.BatchNorm1d] > 40
    assert list(net.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        torch.testing.assert_close(net.train(mode)(images), plain.train(mode)(images), atol=0, rtol=0)


class Own(nn.BatchNorm2d):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    "norm", [Own(3), nn.SyncBatchNorm(3), nn.LazyBatchNorm1d()], ids=lambda n: type(n).__name__
)
def test_a_norm_with_a_forward_of_its_own_is_refused(norm):
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(norm))
    with pytest.raises(
        InputError, match=f"^1.0 is a {type(norm).__name__}.*: train in one process, or"
    ) as told:
        convert(net)
    assert "\n" not in str(told.value) and type(net[0]) is nn.BatchNorm1d
    assert type(convert(net, unknown_stay=True)[0]) is SyncBatchNorm1d and net[1][0] is norm


def test_wrong_dimensions_are_an_error_over_ranks_too():
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        SyncBatchNorm1d(3)._synced(batch())


def reduce_backward(dy, x, mean_C, invstd_C, weight_C, *asked):
    """What torch's CUDA kernel of this name gives, in plain terms."""
    xmu = x - mean_C[:, None, None]
    dy_C, dy_xmu_C = dy.sum((0, 2, 3)), (dy * xmu).sum((0, 2, 3))
    return dy_C, dy_xmu_C, dy_xmu_C * invstd_C, dy_C


def backward_elements(dy, x, mean_C, invstd_C, weight_C, dy_C, dy_xmu_C, count):
    assert count.dtype == torch.int32 and count.ndim == 1
    through_C = dy_xmu_C / count.sum() * invstd_C.square()
    shifted = (
        dy - (dy_C / count.sum())[:, None, None] - (x - mean_C[:, None, None]) * through_C[:, None, None]
    )
    return shifted * (invstd_C * weight_C)[:, None, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_path_of_cuda_has_the_gradients_of_batch_norm(monkeypatch, layout):
    """Its kernels are stood in for by their formulas; two ranks with the same images are one with twice."""
    monkeypatch.setattr(torch, "batch_norm_backward_reduce", reduce_backward)
    monkeypatch.setattr(torch, "batch_norm_backward_elemt", backward_elements)
    monkeypatch.setattr("csr.runtime.distributed.all_reduce_sum", lambda tensor: 2 * tensor)
    x = batch().double().to(memory_format=layout)
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    plain = nn.BatchNorm2d(3).double()
    nn.init.uniform_(plain.weight)
    twice = torch.cat([x, x]).requires_grad_()
    plain(twice).backward(torch.cat([dy, dy]))
    mean_C, variance_C = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    count = torch.tensor(2.0 * x.numel() / 3)
    found = _backward_on_cuda(
        dy, x, plain.weight.detach(), mean_C, torch.rsqrt(variance_C + plain.eps), count
    )
    torch.testing.assert_close(found[0], twice.grad[: len(x)])
    torch.testing.assert_close(2 * found[1], plain.weight.grad)
    torch.testing.assert_close(2 * found[2], plain.bias.grad)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_half_weights_beside_fp32_statistics_compute_as_fp32_does(momentum, training):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3, momentum=momentum)
    nn.init.uniform_(plain.weight)
    plain.weight.data = plain.weight.data.half().float()
    half = convert(copy.deepcopy(plain))
    half.weight.data, half.bias.data = half.weight.data.half(), half.bias.data.half()
    x = batch().half()
    for norm, images in ((plain, x.float()), (half, x)):
        norm.train(training)
        for _ in range(2):
            output = norm(images)
        output.float().square().sum().backward()
        norm.output = output
    assert half.output.dtype == torch.float16 and half.running_var.dtype == torch.float32
    torch.testing.assert_close(half.output.float(), plain.output, atol=4e-3, rtol=1e-3)
    torch.testing.assert_close(half.weight.grad.float(), plain.weight.grad, atol=0.5, rtol=2e-3)
    torch.testing.assert_close(half.running_mean, plain.running_mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(half.running_var, plain.running_var, atol=1e-5, rtol=1e-5)
    assert half.num_batches_tracked == plain.num_batches_tracked == (2 if training else 0)
