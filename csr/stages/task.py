"""Stage 3: one linear layer from similarity scores to diagnoses, trained on standardised scores.

Scores lie in a narrow band, so a raw linear head collapses to the majority. It is trained on
(score - mean) / sd of the training set, and the standardisation is folded into the exported layer:
the model stays one linear map on cosines.

Letters: N images, B batch, K concepts, M prototypes per concept, T targets, F = K x M scores.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from csr.data.batch import Batch, Rows
from csr.model import CSR
from csr.model.baselines import ConceptBottleneck
from csr.model.layers.task_head import fold_standardisation
from csr.stages.base import Features, StageOutput
from csr.stages.concept import positive_weights
from csr.stages.target import TargetStage

BLOCK = 8192  # images whose scores are in fp64 at once
MIN_SD = 1e-2  # a dead prototype's score hardly varies: dividing by less would amplify its noise


def choose_task_loss(requested: str, target_NT: np.ndarray) -> str:
    """Resolve `auto`: bce, unless every image has exactly one of at least two targets: then ce."""
    if requested != "auto":
        return requested
    complete = not np.isnan(target_NT).any() and bool(np.isin(target_NT, (0.0, 1.0)).all())
    single = complete and target_NT.shape[1] > 1 and bool((target_NT.sum(axis=1) == 1).all())
    return "ce" if single else "bce"


class TaskStage(TargetStage):
    """Balanced BCE, focal loss or cross-entropy on a linear head; all else is frozen.

    Args:
        model: CSR with trained prototypes.
        loss: bce, focal or ce.
        pos_weight_T: negatives / positives of each target (bce, focal); class weights of ce.
        lr: of the head.
        weight_decay: of the head's matrix.
    """

    name, requires = "task", "prototype"
    trainable = ("head",)
    frozen_inputs = True
    input_parts: ClassVar[tuple[str, ...]] = ("model.backbone.", "model.projector.", "model.prototypes.")
    mean_F: torch.Tensor
    sd_F: torch.Tensor

    def __init__(
        self,
        model: CSR | ConceptBottleneck,
        *,
        loss: str,
        pos_weight_T: torch.Tensor,
        lr: float,
        weight_decay: float,
    ) -> None:
        super().__init__(model, loss=loss, pos_weight_T=pos_weight_T)
        linear = model.task_head.linear
        self.head = nn.Linear(linear.in_features, linear.out_features)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean_F", torch.zeros(linear.in_features))
        self.register_buffer("sd_F", torch.ones(linear.in_features))
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

    def inputs(self, batch: Batch) -> Rows:
        feat_BCHW = self.maps(batch)
        score_BKM = self.model.similarity_scores(feat_BCHW)
        row_B = torch.arange(len(score_BKM), device=score_BKM.device)
        return {"score": score_BKM.flatten(1).float(), "row": row_B}

    def input_floats(self, concept_NK: np.ndarray) -> int:
        return len(concept_NK) * self.head.in_features

    def begin(self, features: Features) -> None:
        """Take mean and standard deviation of the scores of the training images."""
        blocks = features.all("score").split(BLOCK)  # mapped from a file, where they do not fit
        number = sum(len(block) for block in blocks)
        mean_F = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / number
        square_F = torch.stack([(block.double() - mean_F).square().sum(0) for block in blocks]).sum(0)
        self.mean_F.copy_(mean_F)
        self.sd_F.copy_((square_F / number).sqrt().clamp_min(MIN_SD))

    def logits(self, score_BF: torch.Tensor) -> torch.Tensor:
        """Return logits (B,T) of similarity scores (B,K*M)."""
        standard_BF = (score_BF.float() - self.mean_F.float()) / self.sd_F.float()
        return self.head(standard_BF.to(self.head.weight.dtype)).float()

    def forward(self, batch: Batch) -> StageOutput:
        cached = "score" in batch
        rows = {"score": batch["score"], "row": batch["row"]} if cached else self.inputs(batch)
        label_RT = batch["target"][rows["row"]]  # cached padding has no rows
        loss = self.target_loss(self.logits(rows["score"]), label_RT) * batch["scale"]["target"]
        return StageOutput(loss, {"task_loss": loss.detach()})

    def predict(self, batch: Batch) -> torch.Tensor:
        return self.logits(batch["score"] if "score" in batch else self.inputs(batch)["score"])

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
