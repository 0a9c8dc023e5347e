"""BatchNorm over the images of all ranks, on gloo as on NCCL (torch's own SyncBatchNorm needs a GPU).

Its running statistics are fp32 under half-precision weights too: half stops at 65504, and loses updates of
less than a thousandth of the value.

Two ranks with half a batch each then compute what one process computes with the whole of it: outputs,
running statistics and gradients. Parameters, buffers and state-dict keys are those of torch's BatchNorm1d, 2d
and 3d, whose inputs these take: (B, C) and (B, C, L), (B, C, H, W), (B, C, L, H, W).

Letters: B batch, C channels, H W map, L places along a further axis, R ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from csr.model.layers.precision import HALF, full, no_autocast
from csr.runtime import distributed
from csr.runtime.errors import InputError


class SyncBatchNorm(_BatchNorm):
    """What the three twins below add to torch's norms: training statistics that run over all ranks.

    In one process they are torch's norms. Every rank must call them equally often; batches may differ in size
    between ranks.
    """

    keeps_fp32_statistics = True  # an engine that casts weights to half leaves its buffers alone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and distributed.is_initialized() and distributed.world_size() > 1:
            return self._synced(x)
        if self.weight is None or self.weight.dtype not in HALF or self._has_half_statistics():
            return super().forward(x)
        return self._of_half_weights(x)

    def _has_half_statistics(self) -> bool:
        return self.running_mean is not None and self.running_mean.dtype in HALF

    def _of_half_weights(self, x: torch.Tensor) -> torch.Tensor:
        """Compute as torch's norm does, with fp32 parameters and statistics beside inputs of any type."""
        part = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            part = 1.0 / float(self.num_batches_tracked) if part is None else part
        tracked = not self.training or self.track_running_stats
        return F.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            full(self.weight),
            full(self.bias),
            self.training or self.running_mean is None,
            part or 0.0,
            self.eps,
        )

    def _synced(self, x: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(x)
        weight_C = torch.ones(x.shape[1], device=x.device) if self.weight is None else full(self.weight)
        bias_C = torch.zeros(x.shape[1], device=x.device) if self.bias is None else full(self.bias)
        with no_autocast(x):
            y, mean_C, var_C, count = _NormaliseOverRanks.apply(x, weight_C, bias_C, self.eps)
        self._track(mean_C, var_C, count)
        return y

    @torch.no_grad()
    def _track(self, mean_C: torch.Tensor, var_C: torch.Tensor, count: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        # without a momentum the running values are plain averages over all batches (as in torch)
        part = 1.0 / self.num_batches_tracked.float() if self.momentum is None else self.momentum
        unbiased_C = var_C * (count / (count - 1).clamp_min(1.0))
        for running_C, now_C in ((self.running_mean, mean_C), (self.running_var, unbiased_C)):
            running_C.add_((part * (now_C - full(running_C))).to(running_C.dtype))


class SyncBatchNorm1d(SyncBatchNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d over all ranks."""


class SyncBatchNorm2d(SyncBatchNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d over all ranks."""


class SyncBatchNorm3d(SyncBatchNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d over all ranks."""


class SyncBatchNormAct(SyncBatchNorm2d):
    """SyncBatchNorm2d followed by dropout and activation: what timm's BatchNormAct2d fuses."""

    def __init__(self, num_features: int, *, drop: nn.Module, act: nn.Module) -> None:
        super().__init__(num_features)
        self.drop, self.act = drop, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


class _NormaliseOverRanks(torch.autograd.Function):
    """x -> (x - mean) / sqrt(var + eps) * weight + bias with moments of all ranks.

    Both directions use torch's fused kernels for given moments. Backward has to take off what the
    moments' own dependence on x contributes, w / sd * (mean(dy) + xhat * mean(dy xhat)) over all ranks: on
    CUDA torch has kernels for that, elsewhere it is done afterwards.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight_C: torch.Tensor, bias_C: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        mean_C, var_C, count = global_moments(x)
        ctx.save_for_backward(x, weight_C, mean_C, var_C, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean_C, var_C, count)
        y = torch.native_batch_norm(x, weight_C, bias_C, mean_C, var_C, False, 0.0, eps)[0]
        return y, mean_C, var_C, count

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight_C, mean_C, var_C, count = ctx.saved_tensors
        inverse_sd_C = torch.rsqrt(var_C + ctx.eps)
        if x.is_cuda:
            return *_backward_on_cuda(grads[0], x, weight_C, mean_C, inverse_sd_C, count), None
        # CUDA's kernel for channels-last inputs needs the saved moments, the CPU's takes either pair
        grad_x, grad_weight_C, grad_bias_C = torch.ops.aten.native_batch_norm_backward(
            grads[0], x, weight_C, mean_C, var_C, mean_C, inverse_sd_C, False, ctx.eps, [True, True, True]
        )
        dy_C, dy_xhat_C = distributed.all_reduce_sum(torch.stack([grad_bias_C, grad_weight_C])) / count
        slope_C = weight_C * inverse_sd_C.square() * dy_xhat_C
        shift_C = weight_C * inverse_sd_C * dy_C - slope_C * mean_C
        each = (-1, *(1,) * (x.ndim - 2))  # the shape in which C numbers stand beside x (B,C,...)
        through_moments = torch.addcmul(shift_C.view(each), full(x), slope_C.view(each))
        return grad_x.sub_(through_moments.to(grad_x.dtype)), grad_weight_C, grad_bias_C, None


def _backward_on_cuda(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight_C: torch.Tensor,
    mean_C: torch.Tensor,
    inverse_sd_C: torch.Tensor,
    count: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return gradients of x, weight and bias with the kernels of torch's own SyncBatchNorm.

    They read dy and x twice and write once, in their own type: no copy of the activations in fp32.
    """
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None
    dy = dy.contiguous(memory_format=layout or torch.contiguous_format)
    x = x if layout else x.contiguous()
    dy_C, dy_xmu_C, grad_weight_C, grad_bias_C = torch.batch_norm_backward_reduce(
        dy, x, mean_C, inverse_sd_C, weight_C, True, True, True
    )
    dy_C, dy_xmu_C = distributed.all_reduce_sum(torch.stack([dy_C, dy_xmu_C])).unbind(0)
    grad_x = torch.batch_norm_backward_elemt(
        dy, x, mean_C, inverse_sd_C, weight_C, dy_C, dy_xmu_C, count.to(torch.int32).view(1)
    )
    return grad_x, grad_weight_C, grad_bias_C


@torch.no_grad()
def global_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (C,), biased variance (C,) and count (scalar) of x (B,C,...), over all other axes and all ranks.

    Each rank puts its own moments in its row of one small tensor and the rows are summed: one collective,
    and no difference of large squares.
    """
    num_channels = x.shape[1]
    count = x.numel() // num_channels
    mean_C, var_C = (torch.zeros(num_channels, device=x.device) for _ in range(2))
    if count > 1:
        # torch's own kernel, three times as fast as var_mean on a CPU; momentum 1 stores this batch's moments
        torch.batch_norm_update_stats(x, mean_C, var_C, 1.0)
        var_C *= (count - 1) / count
    elif count == 1:
        mean_C += x.flatten()
    own = torch.cat([mean_C, var_C, mean_C.new_full((1,), count)])
    table = own.new_zeros(distributed.world_size(), len(own))
    table[distributed.rank()] = own
    table = distributed.all_reduce_sum(table)
    mean_RC, var_RC, count_R1 = table[:, :num_channels], table[:, num_channels:-1], table[:, -1:]
    total = count_R1.sum()
    share_R1 = count_R1 / total
    mean_C = (share_R1 * mean_RC).sum(0)
    var_C = (share_R1 * (var_RC + (mean_RC - mean_C).square())).sum(0)
    return mean_C, var_C, total


_TWINS: dict[type[nn.Module], type[SyncBatchNorm]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
}


def convert(module: nn.Module, *, unknown_stay: bool = False) -> nn.Module:
    """Replace a module's BatchNorm1d, 2d and 3d, in place where they are nested, by synchronised twins.

    Parameters and buffers stay the same objects. timm's fused BatchNormAct2d is understood.

    Args:
        module: changed in place.
        unknown_stay: leave other kinds of BatchNorm, whose forward is not known, as they are, where nothing
            is to be synchronised.

    Returns:
        The module, or its replacement if it is a BatchNorm itself.

    Raises:
        InputError: another kind of BatchNorm; nothing was replaced then.
    """
    if not unknown_stay:
        for name, norm in module.named_modules():
            if isinstance(norm, _BatchNorm) and not isinstance(norm, SyncBatchNorm) and not _is_known(norm):
                raise InputError(
                    f"{name or 'the network'} is a {type(norm).__name__}, whose statistics csr cannot "
                    "synchronise over ranks: train in one process, or choose another --model_name"
                )
    return _convert(module)


def _convert(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _convert(child))
    if not isinstance(module, _BatchNorm) or isinstance(module, SyncBatchNorm) or not _is_known(module):
        return module
    return _twin(module)


def _is_known(norm: _BatchNorm) -> bool:
    return type(norm) in _TWINS or _is_fused_with_activation(norm)


def _is_fused_with_activation(norm: _BatchNorm) -> bool:
    is_2d = isinstance(norm, nn.BatchNorm2d)
    return is_2d and [name for name, _ in norm.named_children()] == ["drop", "act"]


def _twin(norm: _BatchNorm) -> SyncBatchNorm:
    if _is_fused_with_activation(norm):
        drop, act = norm.children()
        twin: SyncBatchNorm = SyncBatchNormAct(norm.num_features, drop=drop, act=act)
    else:
        twin = _TWINS[type(norm)](norm.num_features)
    twin.eps, twin.momentum, twin.affine = norm.eps, norm.momentum, norm.affine
    twin.track_running_stats = norm.track_running_stats
    twin.weight, twin.bias = norm.weight, norm.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(twin, name, getattr(norm, name))
    return twin.train(norm.training)
