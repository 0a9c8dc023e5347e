"""What all stages share that diagnose: loss, weights and validation by the targets.

Letters: N images, B batch, T targets.
"""

from __future__ import annotations

import numpy as np
import torch

from csr.model.baselines import Network
from csr.stages.base import Stage
from csr.stages.losses import task_bce, task_cross_entropy, task_focal


class TargetStage(Stage):
    """Balanced BCE, focal loss or cross-entropy on the logits of the targets.

    Args:
        model: the network.
        loss: bce, focal or ce.
        pos_weight_T: negatives / positives of each target (bce, focal); class weights of ce.
    """

    label = "target"
    pos_weight_T: torch.Tensor

    def __init__(self, model: Network, *, loss: str, pos_weight_T: torch.Tensor) -> None:
        super().__init__(model)
        self.loss = loss
        self.register_buffer("pos_weight_T", pos_weight_T, persistent=False)

    def label_weights(self) -> torch.Tensor:
        return self.pos_weight_T

    def target_loss(self, logit_BT: torch.Tensor, label_BT: torch.Tensor) -> torch.Tensor:
        """Return the sum over counted entries, a scalar."""
        weight_T = self.pos_weight_T.to(logit_BT.device).float()
        if self.loss == "ce":
            return task_cross_entropy(logit_BT, label_BT, weight_T)
        return (task_focal if self.loss == "focal" else task_bce)(logit_BT, label_BT, weight_T)

    def counts(self, labels: dict[str, np.ndarray]) -> dict[str, float]:
        known_NT = ~np.isnan(labels["target"])
        return {"target": float(known_NT.all(axis=1).sum() if self.loss == "ce" else known_NT.sum())}

    def evaluation_loss(self, logit_NL: torch.Tensor, label_NL: torch.Tensor) -> float:
        counted = max(1.0, TargetStage.counts(self, {"target": label_NL.numpy()})["target"])
        return float(self.target_loss(logit_NL, label_NL)) / counted

    def probability(self, logit_NL: torch.Tensor) -> torch.Tensor:
        return logit_NL.softmax(-1) if self.loss == "ce" else logit_NL.sigmoid()
