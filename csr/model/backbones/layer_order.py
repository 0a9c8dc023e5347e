"""The order of a backbone's layers from the images on, for learning rates by depth and for freezing.

The convention is that of fine-tuning MAE and BEiT: stem and position embeddings are layer 0, each block is
a layer of its own, and the last norm stands with the head above all blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

_NORMS = ("norm", "layernorm", "rmsnorm")  # in the names of classes
_LEVELS = 2  # stages, and blocks in them


@dataclass(frozen=True)
class LayerOrder:
    """Layers of the parameters of a network.

    Attributes:
        layer: number of each parameter's layer, 0 next to the images.
        top: number of what follows all blocks: the last norm, and heads.
    """

    layer: Mapping[str, int]
    top: int

    def last(self, count: int) -> set[str]:
        """Return the parameters of the last blocks, and of what follows them."""
        return {name for name, number in self.layer.items() if number >= self.top - count}


def layer_order(net: nn.Module) -> LayerOrder:
    """Return the layers of a network: as timm groups its own models, else by lists of modules."""
    groups = _timm_groups(net) or _listed_groups(net)
    last = max(groups.values(), default=0)
    final = {name for name in norm_parameters(net) if name.count(".") == 1 and groups[name] == last}
    inside = [name for name, number in groups.items() if number == last and name not in final]
    top = last + 1 if inside else last  # timm puts the final norm into the group of the last block
    return LayerOrder({name: top if name in final else number for name, number in groups.items()}, top)


def norm_parameters(net: nn.Module) -> set[str]:
    """Return the names of weights and biases of all norms."""
    return {
        f"{path}.{name}" if path else name
        for path, module in net.named_modules()
        if any(word in type(module).__name__.lower() for word in _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }


def _timm_groups(net: nn.Module) -> dict[str, int]:
    matcher: Callable[..., Any] | None = getattr(net, "group_matcher", None)
    if matcher is None:
        return {}
    from timm.models import group_parameters

    found: Any = group_parameters(net, matcher(coarse=False), reverse=True)
    return {str(name): int(number) for name, number in found.items()}


def _listed_groups(net: nn.Module) -> dict[str, int]:
    """Number the entries of lists of modules as they follow each other; what stands before them is 0."""
    groups: dict[str, int] = {}
    seen: dict[str, int] = {}
    for name, _ in net.named_parameters():
        block = _block_of(net, name)
        if block:
            seen.setdefault(block, len(seen) + 1)
            groups[name] = seen[block]
        else:
            groups[name] = len(seen) + 1 if seen else 0
    return groups


def _block_of(net: nn.Module, name: str) -> str:
    """Return the path of the innermost of the first two levels of lists that hold a parameter."""
    module, path, block, levels = net, [], "", 0
    for word in name.split(".")[:-1]:
        is_entry = isinstance(module, nn.ModuleList | nn.Sequential)
        module = getattr(module, word)
        path.append(word)
        if is_entry and levels < _LEVELS:
            block, levels = ".".join(path), levels + 1
    return block
