"""The order of the stages, and the hand-over from one to the next: plain weights on one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from csr.model.baselines import Network
from csr.stages.base import Stage

Weights = dict[str, torch.Tensor]
ORDER = ("concept", "prototype", "task")
# the stages of a baseline have the number of the stage whose place they take
STAGE_NUMBER = {"concept": 1, "prototype": 2, "task": 3, "bottleneck": 3, "joint": 3, "blackbox": 3}
# which labels validate a stage
VALIDATED_BY = {
    "concept": "concept",
    "prototype": None,
    **dict.fromkeys(("task", "bottleneck", "joint", "blackbox"), "target"),
}


class StageRunner:
    """Runs stages in order on one model; each starts from the weights that the one before chose.

    Args:
        model: carries the weights from stage to stage.
        build_stage: name -> the stage around the model, built only when its turn comes.
        order: names of the stages.
    """

    def __init__(
        self, model: Network, build_stage: Callable[[str], Stage], *, order: Sequence[str] = ORDER
    ) -> None:
        self.model, self._order = model, tuple(order)
        self._build_stage = build_stage
        self._done: str | None = None
        # parameters that the backbone's map does not depend on were frozen when it was built, for good
        self._learnable = {name for name, p in model.named_parameters() if p.requires_grad}

    def run(self, train_stage: Callable[[Stage], Weights], *, first: str | None = None) -> None:
        """Call `train_stage` on each stage from `first` on; it returns the model weights to hand over.

        The model holds the weights of all stages before `first`, by a checkpoint or another run.
        """
        start = 0 if first is None else self._order.index(first)
        if start:
            self._done = self._order[start - 1]
        for name in self._order[start:]:
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
