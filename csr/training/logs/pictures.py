"""Pictures of a run, and when: of a stage's best model, and of the present one between epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from csr.engine.device import local_device
from csr.engine.engine import Engine
from csr.evaluation.thresholds import concept_medians
from csr.model import CSR
from csr.model.sharing.card import Card
from csr.model.sharing.reference import Reference
from csr.runtime import distributed
from csr.runtime.monitor import Monitor
from csr.stages.base import Features, Stage
from csr.training.checkpoints.state import TrainState
from csr.training.data import Splits, labels_of
from csr.training.logs.board_images import Drawn, Head, cam_figure, similarity_figure

OF_CAMS = ("concept", "joint")  # stages that train activation maps
OF_SIMILARITIES = ("prototype", "task")


class Pictures:
    """Draws a few validation images for the board, on rank 0.

    Args:
        monitor: shows them.
        splits: of the run.
        card_of: what is known of the model by now -> its card.
        every: epochs between pictures of the model in training; 0: none of it.
    """

    def __init__(
        self, monitor: Monitor, splits: Splits, card_of: Callable[[Reference], Card], *, every: int
    ) -> None:
        self._monitor, self._splits, self._card_of, self._every = monitor, splits, card_of, every
        self._medians: dict[str, Reference] = {}  # of a stage

    def after_stage(self, name: str, model: Any, *, step: int) -> None:
        """Draw the best model of a stage: activation maps, or for the diagnoses what a card's model says.

        Args:
            name: of the stage.
            model: with its best weights; with a card after the stage of the diagnoses.
            step: optimizer steps so far.
        """
        if not distributed.is_main():
            return
        model.to(local_device()).eval()
        if name in OF_CAMS:
            picture = cam_figure(model, self._drawn(Reference()))
        else:
            linear = model.task_head.linear
            picture = similarity_figure(
                model, self._drawn(model.card.reference), (linear.weight, linear.bias)
            )
        self._monitor.figure(f"{name}/explanations", picture, step=step)

    def after_epoch(self, engine: Engine, stage: Stage, features: Features | None, state: TrainState) -> None:
        """Draw the model in training where it is due.

        Args:
            engine: around the stage.
            stage: under training.
            features: of the training images, of a stage with frozen layers before what it trains.
            state: at the end of an epoch.
        """
        name = stage.name
        if not self._every or state.epoch % self._every or not distributed.is_main():
            return
        with engine.inference():
            if name in OF_CAMS:
                picture = cam_figure(stage.model, self._drawn(Reference()))
            elif name in OF_SIMILARITIES:
                head = _head_of(stage) if name == "task" else None
                reference = self._of_training_images(stage, features) if head else Reference()
                picture = similarity_figure(stage.model, self._drawn(reference), head)
            else:
                return
        self._monitor.figure(f"{name}_epoch/explanations", picture, step=state.global_step)

    def _drawn(self, reference: Reference) -> Drawn:
        splits = self._splits
        return Drawn(splits.val, splits.eval_transform, local_device(), self._card_of(reference))

    def _of_training_images(self, stage: Stage, features: Features | None) -> Reference:
        """Return the median scores, which stay the same while the head alone is trained."""
        model = stage.model
        assert isinstance(model, CSR) and features is not None, "frozen prototypes give the scores"
        if stage.name not in self._medians:
            score_NF = features.all("score").float().cpu()
            shape = (model.num_concepts, model.num_prototypes_per_concept)
            concept_NK = torch.from_numpy(labels_of(self._splits.train)["concept"])
            absent_KM, present_KM = concept_medians(score_NF.unflatten(1, shape), concept_NK)
            self._medians[stage.name] = Reference(absent_KM=absent_KM, present_KM=present_KM)
        return self._medians[stage.name]


def _head_of(stage: Stage) -> Head:
    """Return the head in training on raw scores."""
    weights = stage.model_weights(dict(stage.state_dict()))
    return weights["task_head.linear.weight"], weights["task_head.linear.bias"]
