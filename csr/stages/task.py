"""Stage 3: one linear layer from similarity scores to diagnoses, trained on standardised scores.

Scores lie in a narrow band, so a raw linear head collapses to the majority. It is trained on
(score - mean) / sd of the training set, and the standardisation is folded into the exported layer:
the model stays one linear map on cosines.

Letters: N images, B batch, K concepts, M prototypes per concept, T targets, F = K x M scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from csr.data.batch import Batch, Rows
from csr.model import CSR
from csr.model.layers.task_head import fold_standardisation
from csr.stages.base import Features, Stage, StageOutput
from csr.stages.concept import positive_weights
from csr.stages.losses import task_bce, task_cross_entropy, task_focal

MIN_SD = 1e-2  # a dead prototype's score hardly varies: dividing by less would amplify its noise


def choose_task_loss(requested: str, target_NT: np.ndarray) -> str:
    """Resolve `auto`: bce, unless every image has exactly one of at least two targets: then ce."""
    if requested != "auto":
        return requested
    complete = not np.isnan(target_NT).any() and bool(np.isin(target_NT, (0.0, 1.0)).all())
    single = complete and target_NT.shape[1] > 1 and bool((target_NT.sum(axis=1) == 1).all())
    return "ce" if single else "bce"


class TaskStage(Stage):
    """Balanced BCE, focal loss or cross-entropy on a linear head; all else is frozen.

    Args:
        model: CSR with trained prototypes.
        loss: bce, focal or ce.
        pos_weight_T: negatives / positives of each target (bce, focal); class weights of ce.
        lr: of the head.
        weight_decay: of the head's matrix.
    """

    name, requires, label = "task", "prototype", "target"
    trainable = ("head",)
    frozen_inputs = True
    input_parts = ("model.backbone.", "model.projector.", "model.prototypes.")
    mean_F: torch.Tensor
    sd_F: torch.Tensor
    pos_weight_T: torch.Tensor

    def __init__(
        self, model: CSR, *, loss: str, pos_weight_T: torch.Tensor, lr: float, weight_decay: float
    ) -> None:
        super().__init__(model)
        linear = model.task_head.linear
        self.loss = loss
        self.head = nn.Linear(linear.in_features, linear.out_features)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean_F", torch.zeros(linear.in_features))
        self.register_buffer("sd_F", torch.ones(linear.in_features))
        self.register_buffer("pos_weight_T", pos_weight_T, persistent=False)
        self.lr, self.weight_decay = lr, weight_decay

    def param_groups(self) -> list[dict[str, Any]]:
        return [
            {
                "params": [self.head.weight],
                "lr": self.lr,
                "weight_decay": self.weight_decay,
                "name": "task_head",
            },
            {"params": [self.head.bias], "lr": self.lr, "weight_decay": 0.0, "name": "task_head_no_decay"},
        ]

    def label_weights(self) -> torch.Tensor:
        return self.pos_weight_T

    def inputs(self, batch: Batch) -> Rows:
        feat_BCHW = self.maps(batch)
        score_BKM = self.model.similarity_scores(feat_BCHW)
        row_B = torch.arange(len(score_BKM), device=score_BKM.device)
        return {"score": score_BKM.flatten(1).float(), "row": row_B}

    def input_floats(self, concept_NK: np.ndarray) -> int:
        return len(concept_NK) * self.head.in_features

    def begin(self, features: Features) -> None:
        """Take mean and standard deviation of the scores of the training images."""
        score_NF = features.all("score").double()
        self.mean_F.copy_(score_NF.mean(0))
        self.sd_F.copy_(score_NF.std(0, unbiased=False).clamp_min(MIN_SD))

    def logits(self, score_BF: torch.Tensor) -> torch.Tensor:
        """Return logits (B,T) of similarity scores (B,K*M)."""
        standard_BF = (score_BF.float() - self.mean_F.float()) / self.sd_F.float()
        return self.head(standard_BF.to(self.head.weight.dtype)).float()

    def _loss_sum(self, logit_BT: torch.Tensor, label_BT: torch.Tensor) -> torch.Tensor:
        weight_T = self.pos_weight_T.to(logit_BT.device).float()
        if self.loss == "ce":
            return task_cross_entropy(logit_BT, label_BT, weight_T)
        return (task_focal if self.loss == "focal" else task_bce)(logit_BT, label_BT, weight_T)

    def forward(self, batch: Batch) -> StageOutput:
        cached = "score" in batch
        rows = {"score": batch["score"], "row": batch["row"]} if cached else self.inputs(batch)
        label_RT = batch["target"][rows["row"]]  # cached padding has no rows
        loss = self._loss_sum(self.logits(rows["score"]), label_RT) * batch["scale"]["target"]
        return StageOutput(loss, {"task_loss": loss.detach()})

    def counts(self, labels: dict[str, np.ndarray]) -> dict[str, float]:
        known_NT = ~np.isnan(labels["target"])
        return {"target": float(known_NT.all(axis=1).sum() if self.loss == "ce" else known_NT.sum())}

    def predict(self, batch: Batch) -> torch.Tensor:
        return self.logits(batch["score"] if "score" in batch else self.inputs(batch)["score"])

    def evaluation_loss(self, logit_NL: torch.Tensor, label_NL: torch.Tensor) -> float:
        counted = max(1.0, self.counts({"target": label_NL.numpy()})["target"])
        return float(self._loss_sum(logit_NL, label_NL)) / counted

    def probability(self, logit_NL: torch.Tensor) -> torch.Tensor:
        return logit_NL.softmax(-1) if self.loss == "ce" else logit_NL.sigmoid()

    def model_weights(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the model's weights, its task head being this stage's with the standardisation folded in."""
        weights = super().model_weights(state)
        weights["task_head.linear.weight"], weights["task_head.linear.bias"] = fold_standardisation(
            state["head.weight"], state["head.bias"], state["mean_F"], state["sd_F"]
        )
        return weights


def task_weights(target_NT: np.ndarray, *, loss: str, maximum: float) -> torch.Tensor:
    """Return the balance of stage 3, (T,).

    Negatives / positives (bce, focal), or N / (T n_t) for cross-entropy.
    """
    if loss != "ce":
        return positive_weights(target_NT, maximum=maximum)
    count_T = target_NT.sum(axis=0)
    weight_T = target_NT.shape[0] / (target_NT.shape[1] * np.maximum(count_T, 1))
    return torch.from_numpy(np.clip(weight_T, 1 / maximum, maximum)).float()
