"""Tensors of a stage that its engine has to know: norms, frozen weights, constants, layouts."""

from __future__ import annotations

import torch


def batchnorms(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Return all BatchNorms of a module."""
    return [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def is_trained(norm: torch.nn.Module) -> bool:
    """Return whether training moves a norm, its statistics or its weights."""
    return norm.training or any(p.requires_grad for p in norm.parameters())


def has_batchnorm(module: torch.nn.Module) -> bool:
    """Return whether a module holds a BatchNorm."""
    return bool(batchnorms(module))


def use_channels_last(stage: torch.nn.Module) -> None:
    """Lay kernels of convolutions out as their inputs are, without a copy of them in every step."""
    for parameter in stage.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def copies_of_frozen(stage: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of frozen weights and statistics: a half-precision engine casts them too."""
    copies = {}
    for prefix, module in stage.named_modules():
        own = list(module.named_parameters(recurse=False))
        if any(parameter.requires_grad for _, parameter in own):
            continue
        for name, value in [*own, *module.named_buffers(recurse=False)]:
            copies[f"{prefix}.{name}" if prefix else name] = value.detach().cpu().clone()
    return copies


def copies_of_constants(stage: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the buffers that training does not move: all but BatchNorm's."""
    return {
        f"{prefix}.{name}" if prefix else name: value.detach().cpu().clone()
        for prefix, module in stage.named_modules()
        if not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for name, value in module.named_buffers(recurse=False)
    }
