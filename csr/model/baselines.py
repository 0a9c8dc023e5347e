"""What CSR is compared with on the same backbone: a black box, a concept bottleneck (Koh et al. 2020).

Letters: B batch, K concepts, T targets, C channels, H W feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from csr.model.backbones.build import build_backbone
from csr.model.csr import CSR
from csr.model.layers.concept_head import ConceptHead, pool_cams
from csr.model.layers.task_head import TaskHead
from csr.model.sharing.card import Card

BASELINES = ("blackbox", "cbm", "cbm-joint")


@dataclass
class BaselineOutput:
    """What a baseline says about a batch, fp32.

    logits (B, T) of the diagnoses; concept_logits (B, K) and cams (B, K, H, W), None of a black box.
    """

    logits: torch.Tensor
    concept_logits: torch.Tensor | None = None
    cams: torch.Tensor | None = None


class BlackBox(nn.Module):
    """Backbone, mean over space, one linear layer to the diagnoses.

    Args:
        num_classes: T, the targets.
        backbone_type, model_name, image_size, architecture: see `CSR`.

    Raises:
        InputError: the backbone cannot be built.
    """

    card: Card | None = None

    def __init__(
        self,
        num_classes: int,
        *,
        backbone_type: str,
        model_name: str,
        image_size: int,
        architecture: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(
            backbone_type, model_name, image_size=image_size, architecture=architecture
        )
        self.task_head = TaskHead(self.backbone.channels, 1, num_classes)

    def features(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Return feat_BCHW, in the type that the backbone computes in, of normalised images."""
        return self.backbone(images_B3HW)

    def diagnose(self, feat_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits (B, T), fp32."""
        return self.task_head(feat_BCHW.float().mean(dim=(2, 3))[:, :, None])

    def forward(self, images_B3HW: torch.Tensor) -> BaselineOutput:
        return self.from_features(self.features(images_B3HW))

    def from_features(self, feat_BCHW: torch.Tensor) -> BaselineOutput:
        """Return what `forward` says about the images of these feature maps."""
        return BaselineOutput(self.diagnose(feat_BCHW))

    def description(self) -> dict[str, Any]:
        """Return `baseline` and the constructor arguments, plain JSON."""
        sizes = {"baseline": "blackbox", "num_classes": self.task_head.linear.out_features}
        return {**sizes, **_of_backbone(self.backbone)}


class ConceptBottleneck(nn.Module):
    """Backbone and concept head as CSR has them, one linear layer from the concept logits to the diagnoses.

    Args:
        num_concepts: K.
        num_classes: T, the targets.
        concept_pool: `avg`, `max` or `lse`.
        backbone_type, model_name, image_size, architecture: see `CSR`.

    Raises:
        InputError: the backbone cannot be built.
    """

    card: Card | None = None

    def __init__(
        self,
        num_concepts: int,
        num_classes: int,
        *,
        concept_pool: str,
        backbone_type: str,
        model_name: str,
        image_size: int,
        architecture: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.concept_pool = concept_pool
        self.backbone = build_backbone(
            backbone_type, model_name, image_size=image_size, architecture=architecture
        )
        self.concept_head = ConceptHead(self.backbone.channels, num_concepts)
        self.task_head = TaskHead(num_concepts, 1, num_classes)

    def features(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Return feat_BCHW, in the type that the backbone computes in, of normalised images."""
        return self.backbone(images_B3HW)

    def cams(self, feat_BCHW: torch.Tensor) -> torch.Tensor:
        """Return cam_BKHW, fp32."""
        return self.concept_head(feat_BCHW)

    def concept_logits(self, cam_BKHW: torch.Tensor) -> torch.Tensor:
        """Return (B, K), fp32."""
        return pool_cams(cam_BKHW, self.concept_pool)

    def diagnose(self, concept_logit_BK: torch.Tensor) -> torch.Tensor:
        """Return logits (B, T), fp32."""
        return self.task_head(concept_logit_BK[:, :, None])

    def forward(self, images_B3HW: torch.Tensor) -> BaselineOutput:
        return self.from_features(self.features(images_B3HW))

    def from_features(self, feat_BCHW: torch.Tensor) -> BaselineOutput:
        """Return what `forward` says about the images of these feature maps."""
        cam_BKHW = self.cams(feat_BCHW)
        concept_BK = self.concept_logits(cam_BKHW)
        return BaselineOutput(self.diagnose(concept_BK), concept_BK, cam_BKHW)

    def description(self) -> dict[str, Any]:
        """Return `baseline` and the constructor arguments, plain JSON."""
        linear = self.task_head.linear
        sizes = {"num_concepts": linear.in_features, "num_classes": linear.out_features}
        own = {"baseline": "cbm", **sizes, "concept_pool": self.concept_pool}
        return {**own, **_of_backbone(self.backbone)}


Baseline = BlackBox | ConceptBottleneck
Network = CSR | BlackBox | ConceptBottleneck


def _of_backbone(backbone: Any) -> dict[str, Any]:
    return {
        "backbone_type": backbone.backbone_type,
        "model_name": backbone.model_name,
        "image_size": backbone.image_size,
        "architecture": backbone.architecture,
    }


def build_baseline(
    kind: str, *, num_concepts: int, num_classes: int, concept_pool: str, **backbone: Any
) -> Baseline:
    """Return a baseline with random weights.

    Args:
        kind: one of `BASELINES`.
        num_concepts, concept_pool: of no meaning for a black box.
        num_classes: T.
        backbone: `backbone_type`, `model_name`, `image_size` and `architecture`, see `CSR`.
    """
    if kind == "blackbox":
        return BlackBox(num_classes, **backbone)
    return ConceptBottleneck(num_concepts, num_classes, concept_pool=concept_pool, **backbone)
