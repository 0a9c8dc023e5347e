"""The state an engine resumes from, by parameter name: masters, moments, counters.

The same on any number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch

from csr.engine import zero_partitions
from csr.engine.clipped_adamw import ClippedAdamW
from csr.engine.zero_partitions import State

COUNTERS = ("global_steps", "global_samples", "skipped_steps")
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def gather_optimizer_state(
    engine: Any, *, device: torch.device, keep: bool = True, masters_only: bool = False
) -> tuple[State, dict[str, float]]:
    """Return masters and moments by parameter name. Collective.

    Args:
        engine: of DeepSpeed, ZeRO 1 or 2, or with `ClippedAdamW`.
        device: that the ranks talk over.
        keep: False takes part and copies nothing, on ranks that do not need the result.
        masters_only: leaves moments and scalars away.

    Returns:
        {parameter: {fp32, exp_avg, ...}} on the CPU (there perhaps the engine's own tensors) and the
        optimizer's scalars {"group.key": value}.
    """
    optimizer = engine.optimizer
    if not isinstance(optimizer, ClippedAdamW):
        return zero_partitions.gather(engine, device=device, keep=keep, masters_only=masters_only)
    state: State = {}
    scalars: dict[str, float] = {}
    for i, group in enumerate(optimizer.param_groups):
        parameters = group["params"]
        names = [engine.param_names[p] for p in parameters]
        moments = [{} if masters_only else dict(optimizer.state.get(p, {})) for p in parameters]
        if "step" in moments[0]:  # all parameters of a group take all steps
            scalars[f"{i}.step"] = float(moments[0]["step"])
        for key in ("fp32", *(key for key in moments[0] if key != "step")):
            values = parameters if key == "fp32" else [own[key] for own in moments]
            for name, value in zip(names, _on_host(values), strict=True):
                state.setdefault(name, {})[key] = value
    return state, scalars


def _on_host(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors on the CPU: from a GPU in one copy, which is read once instead of once a tensor."""
    if values[0].device.type == "cpu":
        return [value.detach() for value in values]
    flat = torch.cat([value.detach().reshape(-1) for value in values])
    return zero_partitions.cut(flat.cpu(), [value.shape for value in values])


def scatter_optimizer_state(engine: Any, state: State, scalars: dict[str, float]) -> None:
    """Put what `gather_optimizer_state` gave into an engine, on any number of ranks; weights follow masters.

    Raises:
        ValueError: the state is of other parameters.
    """
    optimizer = engine.optimizer
    alone = isinstance(optimizer, ClippedAdamW)
    groups = [g["params"] for g in optimizer.param_groups] if alone else optimizer.round_robin_bit16_groups
    names = {engine.param_names[p] for parameters in groups for p in parameters}
    if names != set(state):
        raise ValueError(f"the optimizer state is of other parameters: {sorted(names ^ set(state))[:4]}")
    if not alone:
        zero_partitions.scatter(engine, state, scalars)
        return
    for i, parameters in enumerate(groups):
        for parameter in parameters:
            own = dict(state[engine.param_names[parameter]])
            parameter.data.copy_(own.pop("fp32"))
            # laid out as the parameter: the fused step walks over both in the order of their memory
            moments = {key: torch.empty_like(parameter).copy_(value) for key, value in own.items()}
            if moments:
                step = torch.tensor(scalars[f"{i}.step"], dtype=torch.float32, device=parameter.device)
                optimizer.state[parameter] = {"step": step, **moments}


def counters_of(engine: Any) -> dict[str, float]:
    """Return an engine's counters besides the optimizer's: steps, the loss scale, the schedule's step."""
    counted = {name: getattr(engine, name) for name in COUNTERS}
    scaler = engine.optimizer.loss_scaler  # None in bf16 and fp32 on one rank
    counted |= {f"scaler.{name}": getattr(scaler, name) for name in SCALER if hasattr(scaler, name)}
    counted["schedule"] = engine.lr_scheduler.last_epoch
    return {name: float(value) for name, value in counted.items()}


def set_counters(engine: Any, counted: dict[str, float]) -> None:
    """Put back what `counters_of` gave; learning rates follow the schedule's step."""
    for name in COUNTERS:
        setattr(engine, name, int(counted[name]))
    # saved between windows: with another accumulation as many windows are other micro steps
    engine.micro_steps = engine.global_steps * engine.gradient_accumulation_steps()
    _set_scaler(engine.optimizer.loss_scaler, counted)
    schedule = engine.lr_scheduler
    schedule.last_epoch = int(counted["schedule"])
    rules = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    rates = [base * rule(schedule.last_epoch) for base, rule in rules]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates


def _set_scaler(scaler: Any, counted: dict[str, float]) -> None:
    for name in SCALER:
        if f"scaler.{name}" in counted and hasattr(scaler, name):
            kind = float if name == "cur_scale" else int
            setattr(scaler, name, kind(counted[f"scaler.{name}"]))
