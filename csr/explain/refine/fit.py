"""Stage 3 again, on cached scores, without the dropped prototypes: the same objective, loss, class weights,
standardisation, optimizer, schedule, order of images and choice of the best epoch.

Why not a solver of the optimum: stage 3 stops at the epoch that validates best, mostly before the optimum. A
head that were fitted otherwise would differ from the old one for two reasons, which would hide what the
dropped prototypes did. So the epochs are repeated as they were; with nothing dropped the old head comes out.
A column of zeros is 0 after standardisation, gets no gradient, and keeps the weight 0 that it begins with.

Letters: N images, K concepts, M prototypes, T targets, F = K x M scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from csr.data.sampler import WindowSampler
from csr.evaluation.metrics import multilabel_metrics
from csr.model.layers.task_head import fold_standardisation
from csr.stages.runner import STAGE_NUMBER
from csr.stages.task import TaskStage
from csr.training.checkpoints import best_epoch

EPOCH_KEYS = 10_000 * STAGE_NUMBER["task"]  # what the trainer's order of images of this stage begins at


@dataclass(frozen=True)
class Scores:
    """Similarity scores and diagnoses of some images.

    Attributes:
        score_NF: fp32.
        target_NT: fp32, NaN where not annotated.
    """

    score_NF: torch.Tensor
    target_NT: torch.Tensor

    def without(self, keep_F: torch.Tensor) -> Scores:
        """Return the same with the scores of dropped prototypes at 0."""
        return Scores(self.score_NF * keep_F, self.target_NT)

    def all(self, name: str) -> torch.Tensor:
        """Return what a stage asks of its features."""
        assert name == "score", name
        return self.score_NF


@dataclass(frozen=True)
class FitOptions:
    """Options of the training of a head.

    Attributes:
        epochs: of which the best by macro AUROC on validation images is taken; of equals the one with the
            lowest validation loss.
        batch_size: images per optimizer step.
        clip: gradient norm above which gradients are scaled down; 0 is off.
        lr_factor: (step, total steps) -> factor of the learning rate.
        seed: of the order.
    """

    epochs: int
    batch_size: int
    clip: float
    lr_factor: Callable[[int, int], float]
    seed: int


@dataclass(frozen=True)
class Fit:
    """The chosen head, and how it was found.

    Attributes:
        weight_TF, bias_T: of the linear layer on raw scores.
        epoch: the best one, from 1; None of a head that was not fitted.
        history: of every epoch: train_loss, val_loss, val_auc (None where no label has both classes).
    """

    weight_TF: torch.Tensor
    bias_T: torch.Tensor
    epoch: int | None
    history: list[dict[str, Any]]


def fit_head(
    stage: TaskStage, train: Scores, val: Scores, *, options: FitOptions, names: tuple[str, ...]
) -> Fit:
    """Train the head of a stage.

    Args:
        stage: new, on the CPU; its head is changed.
        train, val: scores, dropped prototypes at 0.
        options: of the training.
        names: of the targets.
    """
    stage.begin(train)
    optimizer = torch.optim.AdamW(stage.param_groups())
    base = [group["lr"] for group in optimizer.param_groups]
    sampler = WindowSampler(len(train.score_NF), micro_batch=options.batch_size, seed=options.seed)
    total, step = options.epochs * sampler.num_windows, 0
    best: tuple[best_epoch.Merit, int, torch.Tensor, torch.Tensor] | None = None
    history = []
    for epoch in range(1, options.epochs + 1):
        sampler.set_epoch(EPOCH_KEYS + epoch)
        losses = []
        for position_B, valid_B in sampler:
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * options.lr_factor(step, total)
            losses.append(_step(stage, optimizer, train, position_B[valid_B], clip=options.clip))
            step += 1
        record = {"epoch": epoch, "train_loss": float(np.mean(losses)), **_validate(stage, val, names)}
        history.append(record)
        merit = best_epoch.merit(record["val_auc"], record["val_loss"])
        if best is None or best_epoch.is_better(merit, best[0]):
            best = (
                merit,
                epoch,
                *fold_standardisation(
                    stage.head.weight.detach(), stage.head.bias.detach(), stage.mean_F, stage.sd_F
                ),
            )
    assert best is not None, "at least one epoch"
    return Fit(best[2], best[3], best[1], history)


def keep_head(
    weight_TF: torch.Tensor, bias_T: torch.Tensor, score_NF: torch.Tensor, keep_F: torch.Tensor
) -> Fit:
    """Return the head as it is, with dropped scores fixed at those of the mean training image.

    So the logits of training images keep their means: a score that is 0 instead would shift every diagnosis.

    Args:
        weight_TF, bias_T: of the old head, on raw scores.
        score_NF: of training images, all prototypes.
        keep_F: 1 for prototypes that are left, 0 for dropped ones.
    """
    dropped_TF = weight_TF.double() * (1 - keep_F.double())
    folded_T = bias_T.double() + dropped_TF @ score_NF.double().mean(dim=0)
    return Fit(weight_TF * keep_F, folded_T.to(bias_T.dtype), None, [])


def _step(
    stage: TaskStage, optimizer: torch.optim.Optimizer, train: Scores, position_B: np.ndarray, *, clip: float
) -> float:
    rows = torch.from_numpy(position_B)
    target_BT = train.target_NT[rows]
    count = stage.counts({"target": target_BT.numpy()})["target"]
    batch = {
        "score": train.score_NF[rows],
        "row": torch.arange(len(rows)),
        "target": target_BT,
        "scale": {"target": 1.0 / max(count, 1.0)},
    }
    loss = stage(batch).loss
    optimizer.zero_grad()
    loss.backward()
    if clip:
        torch.nn.utils.clip_grad_norm_(stage.head.parameters(), clip)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _validate(stage: TaskStage, val: Scores, names: tuple[str, ...]) -> dict[str, Any]:
    logit_NT = stage.predict({"score": val.score_NF}).float()
    metrics = multilabel_metrics(stage.probability(logit_NT).numpy(), val.target_NT.numpy(), names=names)
    auc = None if math.isnan(metrics.auc) else metrics.auc
    return {"val_loss": stage.evaluation_loss(logit_NT, val.target_NT), "val_auc": auc}
