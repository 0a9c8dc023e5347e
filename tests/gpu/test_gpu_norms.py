"""BatchNorm over ranks with CUDA's own kernels, against BatchNorm2d in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from csr.model.layers.sync_norm import SyncBatchNorm, SyncBatchNorm2d, convert

pytestmark = pytest.mark.gpu
NEAR = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
C = 16


def computed(norm: nn.Module, x: torch.Tensor, compute, slope: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = compute(x)
    (output.to(slope.dtype) * slope).sum().backward()
    own = {"x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad, "output": output}
    return {**own, "mean": norm.running_mean, "var": norm.running_var}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", list(NEAR), ids=str)
def test_both_directions_are_those_of_batch_norm(gpu, dtype, layout):
    torch.manual_seed(0)
    x = (2.0 + 3.0 * torch.randn(8, C, 9, 9, device=gpu)).to(dtype).to(memory_format=layout)
    slope = torch.randn(8, C, 9, 9, device=gpu)
    norm, plain = SyncBatchNorm2d(C).to(gpu), nn.BatchNorm2d(C).to(gpu).double()
    nn.init.uniform_(norm.weight)
    plain.weight.data = norm.weight.data.double()
    expected = computed(plain, x.double(), plain, slope.double())
    found = computed(norm, x, norm._synced, slope.to(dtype).float())
    assert found["output"].dtype == found["x"].dtype == dtype
    for name, value in expected.items():
        near = NEAR[dtype] * value.abs().max().item()
        torch.testing.assert_close(
            found[name].double(), value, atol=near, rtol=0, msg=lambda m: f"{name} {m}"
        )


@pytest.mark.parametrize("dtype", list(NEAR), ids=str)
@pytest.mark.parametrize("shape", [(64, C), (8, C, 9), (4, C, 5, 6, 7)], ids=["BC", "BCL", "BCLHW"])
def test_vectors_sequences_and_volumes_too(gpu, dtype, shape):
    torch.manual_seed(0)
    x, slope = (torch.randn(shape, device=gpu) for _ in range(2))
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}[len(shape)]
    norm, plain = convert(kind(C).to(gpu)), kind(C).to(gpu).double()
    x = (2.0 + 3.0 * x).to(dtype)
    expected = computed(plain, x.double(), plain, slope.double())
    found = computed(norm, x, norm._synced, slope.to(dtype).float())
    for name, value in expected.items():
        near = NEAR[dtype] * value.abs().max().item()
        torch.testing.assert_close(found[name].double(), value, atol=near, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_half_weights_beside_fp32_statistics(gpu, training):
    torch.manual_seed(0)
    x = (3e3 * torch.randn(8, C, 9, 9, device=gpu)).half().to(memory_format=torch.channels_last)
    norm = convert(nn.BatchNorm2d(C).to(gpu)).train(training)
    norm.weight.data, norm.bias.data = norm.weight.data.half(), norm.bias.data.half()
    plain = nn.BatchNorm2d(C).to(gpu).double().train(training)
    expected, found = plain(x.double()), norm(x)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, atol=1e-2 * float(expected.abs().max()), rtol=0)
    torch.testing.assert_close(norm.running_var.double(), plain.running_var, rtol=1e-4, atol=0)
    assert not training or norm.running_var.max() > 65504


def test_a_resnet_of_synchronised_norms_costs_little_more_than_a_plain_one(cuda, capsys):
    """For the record: milliseconds of a step of ResNet-50 with both kinds, printed; twice is refused."""
    import timm

    def step_ms(net: nn.Module) -> float:
        images = torch.randn(32, 3, 224, 224, device=cuda).to(memory_format=torch.channels_last)
        for number in range(8):
            if number == 3:
                began = torch.cuda.Event(enable_timing=True)
                began.record()
            with torch.autocast("cuda", dtype=torch.bfloat16):
                net(images).float().square().mean().backward()
        ended = torch.cuda.Event(enable_timing=True)
        ended.record()
        torch.cuda.synchronize()
        return began.elapsed_time(ended) / 5

    plain = timm.create_model("resnet50", num_classes=4).to(cuda)
    synced = convert(timm.create_model("resnet50", num_classes=4)).to(cuda)
    for norm in synced.modules():
        if isinstance(norm, SyncBatchNorm):
            norm.forward = norm._synced if not hasattr(norm, "act") else norm.forward
    times = step_ms(plain), step_ms(synced)
    with capsys.disabled():
        print(f"\nResNet-50, 32 images: BatchNorm2d {times[0]:.1f} ms, over ranks {times[1]:.1f} ms")
    assert times[1] < 2 * times[0]
