"""The contract of a stage: model + loss in one module, the parts it trains, the output of its frozen parts.

Letters: B batch, K concepts, T targets, L labels of the stage (K or T), S side of the image, N images, R rows
that frozen layers give (one or several per image).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from csr.data.batch import Batch, Rows
from csr.model.baselines import Network


class StageOutput(NamedTuple):
    """Loss to minimise (scalar) and detached scalars to log."""

    loss: torch.Tensor
    report: dict[str, torch.Tensor]


class Features(Protocol):
    """Output of a stage's frozen layers on all images of a data set."""

    def all(self, name: str) -> torch.Tensor:
        """Return the rows (R, ...) of all images, in image order."""


class Stage(nn.Module):
    """Base of the stages; wrapped as it is by the engine.

    A subclass names what it trains by prefix of parameter names; everything else is frozen and stays in
    eval mode (a frozen BatchNorm would otherwise keep moving its running statistics).
    """

    name: ClassVar[str]
    requires: ClassVar[str | None]
    trainable: tuple[str, ...]
    label: ClassVar[str | None]  # which labels validate it: "concept", "target" or None
    frozen_inputs: bool  # whether frozen layers stand between the images and what is trained
    reads_boxes: ClassVar[bool] = False  # whether `inputs` gives masks of boxes
    needs_features: ClassVar[bool] = True  # whether `begin` and `end_epoch` read what frozen layers give
    input_parts: ClassVar[tuple[str, ...]] = ()  # prefixes of all weights that `inputs` reads

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model: Any = model  # its subclasses say which of the networks they train

    def freeze(self) -> None:
        """Stop gradients of all that this stage does not train."""
        for name, parameter in self.named_parameters():
            if not name.startswith(self.trainable):
                parameter.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Stage:
        """Set the mode of the parts that are trained; the others stay in eval mode."""
        super().train(mode)
        for name, module in self.named_modules():
            if name and not self._may_train(name):
                module.training = False
        return self

    def _may_train(self, module_name: str) -> bool:
        inside = any(f"{module_name}.".startswith(f"{t}.") for t in self.trainable)
        around = any(t.startswith(f"{module_name}.") for t in self.trainable)
        return inside or around

    def param_groups(self) -> list[dict[str, Any]]:
        """Return optimizer groups: dicts with params, lr, weight_decay, name."""
        raise NotImplementedError

    def label_weights(self) -> torch.Tensor | None:
        """Return positive or class weights (L,) of the labels that validate this stage, to be logged."""
        return None

    def maps(self, batch: Batch) -> torch.Tensor:
        """Return feat_BCHW of a batch: the one that it brings, or the backbone's of its images."""
        return batch["feat"] if "feat" in batch else self.model.features(batch["image"])

    def inputs(self, batch: Batch) -> Rows:
        """Return the frozen layers' output for images.

        Args:
            batch: `image` (B,3,S,S) float32, or its map `feat` (B,C,H,W); `concept` (B,K) where the rows
                depend on it.

        Returns:
            Named float32 rows (R, ...), and `row` (R,) int64, the image of each row in 0..B-1; {} for a stage
            without frozen layers before what it trains.
        """
        return {}

    def input_floats(self, concept_NK: np.ndarray) -> int:
        """Return how many numbers `inputs` gives for N images with these labels."""
        return 0

    def forward(self, batch: Batch) -> StageOutput:
        """Return the loss of one micro batch: sum over counted entries x `batch["scale"][name]`.

        Args:
            batch: labels, `scale`, and `image` (B,3,S,S) or the rows (R, ...) of `inputs`.
        """
        raise NotImplementedError

    def counts(self, labels: dict[str, np.ndarray]) -> dict[str, float]:
        """Return over how many entries of a whole optimizer window each sum of the loss runs.

        Args:
            labels: of the window's N images: `concept` (N,K), `target` (N,T); with boxes `num_boxes` (N,).
        """
        raise NotImplementedError

    def begin(self, features: Features) -> None:
        """Take starting values from the frozen layers' output on the training images.

        Called once, before the engine is built.
        """

    def end_epoch(self, features: Features | None, *, last: bool) -> dict[str, float]:
        """Finish an epoch on every rank; may edit weights. Return scalars to log.

        Args:
            features: of the training images; None for a stage without frozen layers before what it trains.
            last: no epoch follows.
        """
        return {}

    def predict(self, batch: Batch) -> torch.Tensor:
        """Return logits (B,L) of this stage's labels for a batch with images or with rows of `inputs`."""
        raise NotImplementedError

    def evaluation_loss(self, logit_NL: torch.Tensor, label_NL: torch.Tensor) -> float:
        """Return the training loss's mean over all rows of an evaluation; NaN labels are not annotated."""
        raise NotImplementedError

    def probability(self, logit_NL: torch.Tensor) -> torch.Tensor:
        """Return probabilities (N,L)."""
        return logit_NL.sigmoid()

    def model_weights(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the CSR model's part of this stage's state dict (fp32, CPU).

        Tensors that the stage keeps beside the model are folded in.
        """
        prefix = "model."
        return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def decayed(
    named: list[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float, name: str
) -> list[dict]:
    """Return two optimizer groups: matrices with weight decay; biases, norms and tokens without."""
    trained = [p for _, p in named if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    return [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay, "name": name},
        {"params": vectors, "lr": lr, "weight_decay": 0.0, "name": f"{name}_no_decay"},
    ]
