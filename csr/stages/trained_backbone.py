"""What stage 1 trains of the backbone: all of it, its last blocks, its norms, or nothing.

Learning rates may fall from the head towards the images (MAE and BEiT fine-tuning: a factor for each block).

Letters: N images, B batch, K concepts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from csr.data.batch import Batch, Rows
from csr.model.backbones.layer_order import layer_order, norm_parameters
from csr.stages.base import Stage, decayed

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


class BackboneStage(Stage):
    """A stage that trains the backbone, a part of it, or heads on its maps; a subclass calls `choose`."""

    frozen_inputs = False
    reads_boxes: ClassVar[bool] = True
    needs_features: ClassVar[bool] = False
    input_parts: ClassVar[tuple[str, ...]] = ("model.backbone.",)
    _trained: TrainedBackbone

    def choose(self, trained: TrainedBackbone) -> None:
        """Set what is trained of the backbone; without any of it, feature maps are computed once."""
        self._trained = trained
        if trained.part == NONE:
            self.trainable = tuple(name for name in self.trainable if name != "model.backbone")
            self.frozen_inputs = True

    def inputs(self, batch: Batch) -> Rows:
        if not self.frozen_inputs:
            return {}
        feat_BCHW = self.maps(batch)
        return {"feat": feat_BCHW.float(), "row": torch.arange(len(feat_BCHW), device=feat_BCHW.device)}

    def input_floats(self, concept_NK: np.ndarray) -> int:
        if not self.frozen_inputs:
            return 0
        backbone = self.model.backbone
        return len(concept_NK) * backbone.channels * math.prod(backbone.map_size)

    def labels(self, batch: Batch, name: str) -> torch.Tensor:
        """Return the labels `name` of a batch's images, or of its rows where it brings maps.

        Cached padding has no rows.
        """
        label_BL: torch.Tensor = batch[name]  # type: ignore[literal-required]
        return label_BL[batch["row"]] if "feat" in batch else label_BL

    def freeze(self) -> None:
        """Freeze what this stage does not train, and of the backbone what is not to be trained."""
        names = self._trained.names(self.model.backbone.net)
        for name, parameter in self.model.backbone.net.named_parameters():
            if name not in names:
                parameter.requires_grad_(False)
        super().freeze()

    def train(self, mode: bool = True) -> BackboneStage:
        """Set the mode; parts of the backbone without a trained parameter stay in eval mode."""
        super().train(mode)
        if self._trained.part != ALL:
            for module in self.model.backbone.modules():
                module.training = module.training and any(p.requires_grad for p in module.parameters())
        return self
