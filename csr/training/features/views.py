"""Views of the images in a cached pass: plain, as in evaluation, or augmented once for many epochs.

Letters: B images, C channels, S stored side, H W of the network's input.
"""

from __future__ import annotations

from typing import Any

import torch

from csr.data.batch import Batch
from csr.data.transforms import EvalTransform, TrainTransform, identity_theta


class PlainView:
    """Images as they are evaluated."""

    def __init__(self, transform: EvalTransform) -> None:
        self._transform = transform

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the network's input and its geometry of a batch of stored images.

        Returns:
            (B, 3, H, W) float32 of uint8 (B, C, S, S), and `theta_B23`, see `csr.data.transforms`.
        """
        image = batch["image"]
        return self._transform(image), identity_theta(len(image), image.device)

    def settings(self) -> dict[str, Any]:
        """Return what decides the values of this view, as plain JSON for the key."""
        t = self._transform
        return {"view": "plain", "size": t.size, "mean": list(t.mean), "std": list(t.std)}


class AugmentedView:
    """Images as a training epoch of its own would see them; the same for one (seed, number, image)."""

    def __init__(self, transform: TrainTransform, *, number: int, seed: int) -> None:
        self._transform, self.number, self.seed = transform, number, seed

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the network's input and its geometry of a batch of stored images.

        Returns:
            (B, 3, H, W) float32 of uint8 (B, C, S, S), and `theta_B23`, see `csr.data.transforms`.
        """
        # training epochs count from 0 up: views count the other way and meet none of them
        return self._transform(batch["image"], index_B=batch["index"], epoch=-1 - self.number, seed=self.seed)

    def settings(self) -> dict[str, Any]:
        """Return what decides the values of this view, as plain JSON for the key."""
        t = self._transform
        return {
            "view": self.number,
            "seed": self.seed,
            "strength": t.strength,
            "size": t.size,
            "mean": list(t.mean),
            "std": list(t.std),
        }


View = PlainView | AugmentedView
