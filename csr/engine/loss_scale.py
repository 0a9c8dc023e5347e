"""The loss scale of fp16: what half precision would round to zero is scaled up, an overflow skips the step.

The rules are those of DeepSpeed, from the `fp16` section of its JSON, on one rank as under ZeRO; the scaler
is DeepSpeed's own.
"""

from __future__ import annotations

from typing import Any

import torch


def scaler_of(section: dict[str, Any]) -> Any:
    """Return DeepSpeed's scaler for the `fp16` section of a JSON.

    It has `cur_scale`, and `update_scale(overflow)` for every step that was tried.
    """
    from deepspeed.runtime.fp16.loss_scaler import CreateLossScaler
    from deepspeed.runtime.precision_config import DeepSpeedFP16Config

    asked = DeepSpeedFP16Config(**section)
    scaler = CreateLossScaler(
        dtype=torch.half,
        static_loss_scale=asked.loss_scale,
        dynamic_scaling=asked.loss_scale == 0,
        dynamic_loss_args=asked.dynamic_loss_scale_args(),
    )
    return without_end(scaler)


def without_end(scaler: Any) -> Any:
    """Return the scaler, which stays at its lowest scale where DeepSpeed's would end the run.

    csr counts skipped steps itself, and reports step, rank and images.
    """
    scaler.raise_error_at_min_scale = False
    return scaler


def grow_after_steps(zero: Any) -> None:
    """Let a ZeRO optimizer's scale grow once a step is done.

    DeepSpeed grows it between the norm and the update, and divides the gradients by the new scale: every
    growth then halves an update.

    Args:
        zero: DeepSpeed's optimizer of ZeRO 1 or 2, in fp16.
    """
    step, update = zero.step, zero._update_scale
    is_due = False

    def update_scale(has_overflow: bool = False) -> None:
        nonlocal is_due
        is_due = not has_overflow
        if has_overflow:
            update(True)

    def step_and_grow(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_due
        done = step(*args, **kwargs)
        if is_due:
            update(False)
        is_due = False
        return done

    zero._update_scale, zero.step = update_scale, step_and_grow
