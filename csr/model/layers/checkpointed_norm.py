"""BatchNorm under activation checkpointing: its statistics stay when backward runs the forward again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def count_batches_once(module: nn.Module) -> None:
    """Let every BatchNorm inside leave its running statistics alone while backward computes it again."""
    for child in module.modules():
        if isinstance(child, _BatchNorm) and child.track_running_stats:
            guard = _Statistics()
            child.register_forward_pre_hook(guard.set_aside)
            # always: a recomputation ends by an exception as soon as it has all that backward needs
            child.register_forward_hook(guard.put_back, always_call=True)


class _Statistics:
    """The buffers of one BatchNorm, replaced by copies during a recomputation."""

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}

    def set_aside(self, norm: nn.Module, _: Any) -> None:
        # a compiled step moves them once by itself
        if torch.compiler.is_compiling() or not in_backward():
            return
        # copies and not nothing: forward and recomputation must keep the same number of tensors
        for name, buffer in norm.named_buffers(recurse=False):
            self._kept[name] = buffer
            setattr(norm, name, buffer.clone())

    def put_back(self, norm: nn.Module, *_: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for name, buffer in self._kept.items():
            setattr(norm, name, buffer)
        self._kept.clear()


def in_backward() -> bool:
    """Return whether this code runs inside a backward pass."""
    return torch._C._current_graph_task_id() != -1
