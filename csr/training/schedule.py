"""The learning rate over the steps of a stage, and the side of the images over those of stage 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

STEP_PX = 16  # about what images grow by at a time: a multiple of the network's stride


def lr_factor(step: int, total: int, *, warmup: float, schedule: str) -> float:
    """Return the factor of a step: linear warm-up over a first share, then a cosine to zero or a constant.

    Args:
        step: from 0.
        total: steps of the stage.
        warmup: share of the steps.
        schedule: cosine or constant.
    """
    rising = max(1, round(warmup * total))
    if step < rising and warmup:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    done = (step - rising) / max(1, total - rising)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, done))))


def growing_sides(image_size: int, *, start: float, stride: int) -> tuple[int, ...]:
    """Return the sides through which images grow, in pixels, the full one last.

    They differ by the multiple of the stride nearest to 16 px (the stride itself if it is larger).

    Args:
        image_size: the full side.
        start: share of it below which no side lies.
        stride: pixels per cell of the feature map, such as the side of a ViT's patch.
    """
    step = stride * max(1, round(STEP_PX / stride))
    smaller = int(image_size * (1 - start) / step + 1e-9)  # 224 * (1 - 0.9) is a little below 22.4
    return tuple(image_size - step * left for left in range(smaller, -1, -1))


@dataclass(frozen=True)
class SideSchedule:
    """The side of the images over stage 1: a function of the step alone, so the same on every rank.

    Attributes:
        full: share of the steps before the full side.
        map_sizes: side in pixels -> height and width of the feature map; the largest side is the full one.
    """

    full: float
    map_sizes: Mapping[int, tuple[int, int]]

    def at(self, step: int, total: int) -> int:
        """Return the side at a step: each smaller one for as many steps, then the full one.

        Args:
            step: optimizer step of the stage, from 0.
            total: optimizer steps of the stage.
        """
        *smaller, whole = sorted(self.map_sizes)
        growing = int(self.full * total + 1e-9)  # 0.29 * 100 is a little below 29
        return whole if step >= growing else smaller[step * len(smaller) // growing]
