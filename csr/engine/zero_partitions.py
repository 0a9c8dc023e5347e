"""Masters and moments of a ZeRO optimizer by parameter name: the same on any number of ranks.

DeepSpeed's own checkpoints want the same number of ranks and are not written atomically. Here each rank's
partitions are joined into whole tensors before saving, and cut again for whatever ranks there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from csr.runtime import distributed

State = dict[str, dict[str, torch.Tensor]]


def gather(
    engine: Any, *, device: torch.device, keep: bool = True, masters_only: bool = False
) -> tuple[State, dict[str, float]]:
    """Return masters and moments by parameter name, on the CPU. Collective.

    One of them at a time is whole on the device.

    Args:
        engine: of DeepSpeed, ZeRO 1 or 2.
        device: that the ranks talk over.
        keep: False takes part and copies nothing, on ranks that do not need the result.
        masters_only: leaves moments and scalars away.

    Returns:
        {parameter: {fp32, exp_avg, ...}} and the optimizer's scalars {"group.key": value}. Tensors of one
        group and key are pieces of one block of memory.
    """
    zero = engine.optimizer
    state: State = {}
    scalars: dict[str, float] = {}
    for i, parameters in enumerate(zero.round_robin_bit16_groups):
        master = zero.single_partition_of_fp32_groups[i]
        names = [engine.param_names[p] for p in parameters]
        moments = {} if masters_only else zero.optimizer.state.get(master, {})
        for key, value in {"fp32": master.data, **moments}.items():
            if not torch.is_tensor(value) or value.ndim == 0:
                scalars[f"{i}.{key}"] = float(value)
                continue
            whole = _joined(zero, i, value, device)
            if keep:
                pieces = cut(whole.cpu(), [p.shape for p in parameters])
                for name, piece in zip(names, pieces, strict=True):
                    state.setdefault(name, {})[key] = piece
    return state, scalars


def cut(flat: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """Return tensors of these shapes that lie in a flat one, one after another; they share its memory."""
    pieces = flat.split([shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def adopt_edits(engine: Any) -> None:
    """Copy weights that were edited in place to this rank's masters.

    A weight that is still its master, rounded, was not edited: that master keeps its bits.
    """
    zero = engine.optimizer
    rank, _ = distributed.place_in(zero.dp_process_group)
    for i, master in enumerate(zero.single_partition_of_fp32_groups):
        weights = zero.parallel_partitioned_bit16_groups[i][rank].data.to(master.device)
        is_kept = weights == master.data.to(weights.dtype)
        master.data.copy_(torch.where(is_kept, master.data, weights.to(master.dtype)))


def _joined(zero: Any, group: int, partition: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return all ranks' partitions of one parameter group, padding stripped."""
    full = distributed.join_partitions(partition.to(device), zero.dp_process_group)
    return full[: sum(p.numel() for p in zero.round_robin_bit16_groups[group])]


def scatter(engine: Any, state: State, scalars: dict[str, float]) -> None:
    """Put what `gather` gave into an engine, on any number of ranks; weights follow masters."""
    zero = engine.optimizer
    for i, parameters in enumerate(zero.round_robin_bit16_groups):
        master = zero.single_partition_of_fp32_groups[i]
        by_parameter = [state[engine.param_names[p]] for p in parameters]
        cut = {
            key: _partition(zero, master, [tensors[key] for tensors in by_parameter])
            for key in by_parameter[0]
        }
        master.data.copy_(cut.pop("fp32"))
        own = {key: value.to(master.device, copy=True) for key, value in cut.items()}
        for key, value in scalars.items():
            if key.startswith(f"{i}."):  # a fused optimizer wants its step count on the device
                own[key.split(".", 1)[1]] = torch.tensor(value, dtype=torch.float32, device=master.device)
        if own:
            zero.optimizer.state[master] = own
    zero.update_lp_params()


def _partition(zero: Any, master: torch.Tensor, tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return this rank's piece of one parameter group, padded as ZeRO pads it."""
    flat = torch.cat([t.reshape(-1).float() for t in tensors])
    rank, world = distributed.place_in(zero.dp_process_group)
    padded = torch.cat([flat, flat.new_zeros(master.numel() * world - flat.numel())])
    return padded[rank * master.numel() : (rank + 1) * master.numel()]
