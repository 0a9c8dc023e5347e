"""AdamW that clips, and skips what is not finite.

The optimizer of an engine whose one rank has nothing to shard.

ZeRO flattens gradients, keeps masters beside fp32 weights and copies them back. That is the price of
sharding; on one rank it buys nothing. DeepSpeed asks its optimizers for `overflow` and `_global_grad_norm`
after a step: so it may ask this one.
"""

from __future__ import annotations

import math
from typing import Any

import torch


class ClippedAdamW(torch.optim.AdamW):
    """torch's fused AdamW on fp32 parameters.

    Args:
        groups: dicts with params, lr, weight_decay.
        clip: gradient norm above which gradients are scaled down; 0 is off.
        loss_scaler: of fp16 (`loss_scale.scaler_of`): gradients are those of a loss that was multiplied by
            its scale. None: of the loss itself.

    Attributes:
        overflow: whether the last step was skipped because its gradient was not finite.
    """

    def __init__(self, groups: list[dict[str, Any]], *, clip: float, loss_scaler: Any = None) -> None:
        super().__init__(groups, fused=True)
        self._clip = clip
        self.loss_scaler = loss_scaler
        self.overflow = False
        self._global_grad_norm: float | None = None
        self.grad_scale: torch.Tensor | None = None  # the fused kernel divides gradients by it on its way

    @property
    def loss_scale(self) -> float:
        return 1.0 if self.loss_scaler is None else float(self.loss_scaler.cur_scale)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step, or skip the step; one number is read from the device: the norm decides."""
        assert closure is None, "gradients are there when the engine steps"
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        scale = self.loss_scale
        norm = float(total) / scale
        self.overflow = not math.isfinite(norm)
        self._global_grad_norm = math.inf if self.overflow else norm
        if self.loss_scaler is not None:
            self.loss_scaler.update_scale(self.overflow)
        if self.overflow:
            return
        # computed where it is used: a number of the host would be a second stop, of the copy
        if self._clip > 0 and (norm + 1e-6) / self._clip > 1.0:
            self.grad_scale = ((total.double() / scale + 1e-6) / self._clip * scale).float()
        else:
            self.grad_scale = None if scale == 1.0 else torch.full_like(total, scale)
        super().step()
