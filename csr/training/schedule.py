"""The learning rate over the steps of a stage."""

from __future__ import annotations

import math


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
