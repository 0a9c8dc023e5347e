"""The stages of the baselines: a black box, a linear layer on frozen concept logits, both trained together.

Letters: N images, B batch, K concepts, T targets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from csr.data.batch import Batch, Rows
from csr.model.baselines import BlackBox, ConceptBottleneck
from csr.stages.base import StageOutput, decayed
from csr.stages.losses import concept_bce
from csr.stages.target import TargetStage
from csr.stages.task import TaskStage
from csr.stages.trained_backbone import BackboneStage, TrainedBackbone


class BottleneckStage(TaskStage):
    """Second stage of the sequential concept bottleneck: CSR's stage 3 on concept logits."""

    name, requires = "bottleneck", "concept"
    input_parts = ("model.backbone.", "model.concept_head.")

    def inputs(self, batch: Batch) -> Rows:
        logit_BK = self.model.concept_logits(self.model.cams(self.maps(batch)))
        row_B = torch.arange(len(logit_BK), device=logit_BK.device)
        return {"score": logit_BK.float(), "row": row_B}


class BlackBoxStage(BackboneStage, TargetStage):
    """Backbone and linear layer learn the targets from images; no concept is seen.

    Args:
        model: the black box.
        loss, pos_weight_T: see `TargetStage`.
        lr: of the linear layer.
        backbone_lr_scale: backbone's lr / lr.
        weight_decay: of matrices.
        trained: of the backbone; see `BackboneStage.choose`.
    """

    name, requires = "blackbox", None
    trainable = ("model.backbone", "model.task_head")

    def __init__(
        self,
        model: BlackBox,
        *,
        loss: str,
        pos_weight_T: torch.Tensor,
        lr: float,
        backbone_lr_scale: float,
        weight_decay: float,
        trained: TrainedBackbone = TrainedBackbone(),
    ) -> None:
        super().__init__(model, loss=loss, pos_weight_T=pos_weight_T)
        self.lr, self.backbone_lr_scale, self.weight_decay = lr, backbone_lr_scale, weight_decay
        self.choose(trained)

    def param_groups(self) -> list[dict[str, Any]]:
        head = list(self.model.task_head.named_parameters())
        slow = self.lr * self.backbone_lr_scale
        return [
            *self._trained.groups(self.model.backbone.net, lr=slow, weight_decay=self.weight_decay),
            *decayed(head, lr=self.lr, weight_decay=self.weight_decay, name="task_head"),
        ]

    def predict(self, batch: Batch) -> torch.Tensor:
        return self.model.diagnose(self.maps(batch))

    def forward(self, batch: Batch) -> StageOutput:
        loss = self.target_loss(self.predict(batch), self.labels(batch, "target")) * batch["scale"]["target"]
        return StageOutput(loss, {"task_loss": loss.detach()})


class JointStage(BackboneStage, TargetStage):
    """Backbone, concept head and linear layer learn together: mean concept loss + mean target loss.

    Args:
        model: the concept bottleneck.
        loss, pos_weight_T: see `TargetStage`.
        pos_weight_K: of the concepts.
        lr: of concept head and linear layer.
        backbone_lr_scale: backbone's lr / lr.
        weight_decay: of matrices.
        trained: of the backbone; see `BackboneStage.choose`.
    """

    name, requires = "joint", None
    trainable = ("model.backbone", "model.concept_head", "model.task_head")
    pos_weight_K: torch.Tensor

    def __init__(
        self,
        model: ConceptBottleneck,
        *,
        loss: str,
        pos_weight_T: torch.Tensor,
        pos_weight_K: torch.Tensor,
        lr: float,
        backbone_lr_scale: float,
        weight_decay: float,
        trained: TrainedBackbone = TrainedBackbone(),
    ) -> None:
        super().__init__(model, loss=loss, pos_weight_T=pos_weight_T)
        self.register_buffer("pos_weight_K", pos_weight_K, persistent=False)
        self.lr, self.backbone_lr_scale, self.weight_decay = lr, backbone_lr_scale, weight_decay
        self.choose(trained)

    def param_groups(self) -> list[dict[str, Any]]:
        slow = self.lr * self.backbone_lr_scale
        groups = self._trained.groups(self.model.backbone.net, lr=slow, weight_decay=self.weight_decay)
        for name in ("concept_head", "task_head"):
            head = list(getattr(self.model, name).named_parameters())
            groups += decayed(head, lr=self.lr, weight_decay=self.weight_decay, name=name)
        return groups

    def _logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        concept_BK = self.model.concept_logits(self.model.cams(self.maps(batch)))
        return concept_BK, self.model.diagnose(concept_BK)

    def predict(self, batch: Batch) -> torch.Tensor:
        return self._logits(batch)[1]

    def forward(self, batch: Batch) -> StageOutput:
        concept_BK, logit_BT = self._logits(batch)
        weight_K = self.pos_weight_K.to(concept_BK.device).float()
        concept_loss = (
            concept_bce(concept_BK, self.labels(batch, "concept"), weight_K) * batch["scale"]["concept"]
        )
        task_loss = self.target_loss(logit_BT, self.labels(batch, "target")) * batch["scale"]["target"]
        report = {"concept_loss": concept_loss.detach(), "task_loss": task_loss.detach()}
        return StageOutput(concept_loss + task_loss, report)

    def counts(self, labels: dict[str, np.ndarray]) -> dict[str, float]:
        return {"concept": float((~np.isnan(labels["concept"])).sum()), **super().counts(labels)}
