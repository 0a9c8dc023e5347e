"""Stage 1: backbone and concept head learn multi-label concepts from pooled activation maps.

Letters: N images, B batch, K concepts, H W feature map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from csr.data.batch import Batch, Rows
from csr.data.labels.positive import is_positive
from csr.model import CSR
from csr.model.baselines import ConceptBottleneck
from csr.stages.base import StageOutput, decayed
from csr.stages.losses import box_attention, concept_bce
from csr.stages.trained_backbone import BackboneStage, TrainedBackbone


def positive_weights(label_NK: np.ndarray, *, maximum: float) -> torch.Tensor:
    """Return negatives / positives per concept over annotated images, clipped to [1 / maximum, maximum].

    Soft labels count by their share.

    Returns:
        (K,) fp32.
    """
    known_NK = ~np.isnan(label_NK)
    positive_K = np.where(known_NK, label_NK, 0.0).sum(axis=0, dtype=np.float64)
    negative_K = known_NK.sum(axis=0) - positive_K
    ratio_K = negative_K / np.maximum(positive_K, 1e-9)
    return torch.from_numpy(np.clip(ratio_K, 1.0 / maximum, maximum)).float()


class ConceptStage(BackboneStage):
    """BCE with positive weights on concept logits, and attention inside boxes where there are boxes.

    Args:
        model: CSR, or a concept bottleneck, which has the same first stage.
        pos_weight_K: of `positive_weights`.
        lr: of the concept head.
        backbone_lr_scale: backbone's lr / lr.
        weight_decay: of matrices.
        box_weight: of the box term; 0 is off.
        trained: of the backbone. Without any of it, the stage reads feature maps that are computed once.
    """

    name, requires, label = "concept", None, "concept"
    trainable: tuple[str, ...] = ("model.backbone", "model.concept_head")
    pos_weight_K: torch.Tensor

    def __init__(
        self,
        model: CSR | ConceptBottleneck,
        *,
        pos_weight_K: torch.Tensor,
        lr: float,
        backbone_lr_scale: float,
        weight_decay: float,
        box_weight: float = 0.0,
        trained: TrainedBackbone = TrainedBackbone(),
    ) -> None:
        super().__init__(model)
        self.choose(trained)
        self.register_buffer("pos_weight_K", pos_weight_K, persistent=False)
        self.lr, self.backbone_lr_scale, self.weight_decay = lr, backbone_lr_scale, weight_decay
        self.box_weight = box_weight

    def param_groups(self) -> list[dict[str, Any]]:
        head = list(self.model.concept_head.named_parameters())
        slow = self.lr * self.backbone_lr_scale
        return [
            *self._trained.groups(self.model.backbone.net, lr=slow, weight_decay=self.weight_decay),
            *decayed(head, lr=self.lr, weight_decay=self.weight_decay, name="concept_head"),
        ]

    def label_weights(self) -> torch.Tensor:
        return self.pos_weight_K

    def inputs(self, batch: Batch) -> Rows:
        rows = super().inputs(batch)
        return {**rows, "box_mask": batch["box_mask"].byte()} if rows and "box_mask" in batch else rows

    def forward(self, batch: Batch) -> StageOutput:
        cam_BKHW = self.model.cams(self.maps(batch))
        logit_BK = self.model.concept_logits(cam_BKHW)
        concept_BK = self.labels(batch, "concept")
        loss = concept_bce(logit_BK, concept_BK, self.pos_weight_K) * batch["scale"]["concept"]
        report = {"concept_loss": loss.detach()}
        if "box_mask" in batch and self.box_weight:
            # one reader's box on a concept that the merged readers call absent supervises nothing
            mask_BKHW = batch["box_mask"].bool() & is_positive(concept_BK)[:, :, None, None]
            box_loss = box_attention(cam_BKHW, mask_BKHW) * batch["scale"]["box"]
            report["box_loss"] = box_loss.detach()
            loss = loss + self.box_weight * box_loss
        return StageOutput(loss, report)

    def counts(self, labels: dict[str, np.ndarray]) -> dict[str, float]:
        counted = {"concept": float((~np.isnan(labels["concept"])).sum())}
        if "num_boxes" in labels:
            counted["box"] = float(labels["num_boxes"].sum())
        return counted

    def predict(self, batch: Batch) -> torch.Tensor:
        return self.model.concept_logits(self.model.cams(self.maps(batch)))

    def evaluation_loss(self, logit_NL: torch.Tensor, label_NL: torch.Tensor) -> float:
        counted = max(1, int((~label_NL.isnan()).sum()))
        return float(concept_bce(logit_NL, label_NL, self.pos_weight_K.float().cpu())) / counted
