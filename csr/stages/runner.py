"""The order of the stages, and the hand-over from one to the next: plain weights on one model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from csr.model import CSR
from csr.stages.base import Stage

Weights = dict[str, torch.Tensor]
ORDER = ("concept", "prototype", "task")
STAGE_NUMBER = {name: number for number, name in enumerate(ORDER, start=1)}


class StageRunner:
    """Runs stages in order on one model; each starts from the weights that the one before chose.

    Args:
        model: carries the weights from stage to stage.
        build_stage: name -> the stage around the model, built only when its turn comes.
    """

    def __init__(self, model: CSR, build_stage: Callable[[str], Stage]) -> None:
        self.model = model
        self._build_stage = build_stage
        self._done: str | None = None
        # parameters that the backbone's map does not depend on were frozen when it was built, for good
        self._learnable = {name for name, p in model.named_parameters() if p.requires_grad}

    def run(self, train_stage: Callable[[Stage], Weights], *, first: str = ORDER[0]) -> None:
        """Call `train_stage` on each stage from `first` on; it returns the model weights to hand over.

        The checkpoint of a resumed run holds the weights of all stages before `first`.
        """
        start = ORDER.index(first)
        if start:
            self._done = ORDER[start - 1]
        for name in ORDER[start:]:
            stage = self.open(name)
            self.hand_over(stage, train_stage(stage))

    def open(self, name: str) -> Stage:
        """Build a stage, frozen as it trains.

        Raises:
            ValueError: the stage that it builds on has not been trained.
        """
        stage = self._build_stage(name)
        if stage.requires != self._done:
            raise ValueError(
                f"the {name} stage builds on {stage.requires!r}, but the model comes from {self._done!r}"
            )
        for parameter_name, parameter in self.model.named_parameters():
            parameter.requires_grad_(parameter_name in self._learnable)
            parameter.grad = None
        stage.freeze()
        return stage

    def hand_over(self, stage: Stage, weights: Weights) -> None:
        """Put a trained stage's chosen weights into the model."""
        self.model.load_state_dict(weights)
        self._done = stage.name
