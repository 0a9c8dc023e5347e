"""The rule that chooses the best epoch of a stage, shared by training and by refining a trained head.

The higher AUROC on the validation images wins, of equal ones the lower loss. Where no label has both classes
among them there is no AUROC, and the loss alone decides.
"""

from __future__ import annotations

import math

Merit = tuple[float, float]


def merit(auc: float | None, loss: float) -> Merit:
    """Return what the best epoch has most of, compared from left to right.

    Args:
        auc: macro AUROC on the validation images; None or NaN where there is none.
        loss: on the same images.
    """
    return (-loss if auc is None or math.isnan(auc) else auc), -loss


def is_better(candidate: Merit, best: Merit) -> bool:
    """Return whether an epoch replaces the best one; of equal epochs the earlier stays."""
    return not candidate <= best
