"""What stage 1 trains of the backbone: all of it, its last blocks, its norms, or nothing.

Learning rates may fall from the head towards the images (MAE and BEiT fine-tuning: a factor for each block).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from csr.model.backbones.layer_order import layer_order, norm_parameters
from csr.stages.base import decayed

ALL, NONE, NORMS, LAST = "all", "none", "norms", "last"


@dataclass(frozen=True)
class TrainedBackbone:
    """A choice of the backbone's parameters.

    Attributes:
        part: all, last, norms or none.
        blocks: how many of the last blocks, for `last`; what follows them is trained too.
        layer_decay: learning rate of a block / that of the block above it; 1 is the same rate everywhere.
    """

    part: str = ALL
    blocks: int = 0
    layer_decay: float = 1.0

    def names(self, net: nn.Module) -> set[str]:
        """Return the names of the parameters of a network that are trained."""
        if self.part == NONE:
            return set()
        if self.part == NORMS:
            return norm_parameters(net)
        if self.part == LAST:
            return layer_order(net).last(self.blocks)
        return {name for name, _ in net.named_parameters()}

    def groups(self, net: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return optimizer groups of the network's trained parameters.

        Args:
            net: the network inside the backbone.
            lr: of the layers on top.
            weight_decay: of matrices.
        """
        named = list(net.named_parameters())
        if self.layer_decay == 1:
            return decayed(named, lr=lr, weight_decay=weight_decay, name="backbone")
        order = layer_order(net)
        groups: list[dict[str, Any]] = []
        for number in sorted(set(order.layer.values())):
            own = [(name, parameter) for name, parameter in named if order.layer[name] == number]
            rate = lr * self.layer_decay ** (order.top - number)
            groups += decayed(own, lr=rate, weight_decay=weight_decay, name=f"backbone_layer{number}")
        return groups
