"""The images that a model is most wrong about, diagnosis by diagnosis.

Letters: N images, T targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_TARGETS = 30
_LEAST = 1e-7  # a probability of 0 has no finite loss

Row = dict[str, Any]


def log_loss(probability_NT: np.ndarray, label_NT: np.ndarray) -> np.ndarray:
    """Return the binary cross-entropy of each entry, fp64; NaN where not annotated, soft labels as such."""
    p_NT = np.clip(probability_NT.astype(np.float64), _LEAST, 1 - _LEAST)
    loss_NT: np.ndarray = -(label_NT * np.log(p_NT) + (1 - label_NT) * np.log(1 - p_NT))
    return loss_NT


def worst_errors(
    probability_NT: np.ndarray,
    label_NT: np.ndarray,
    called_NT: np.ndarray,
    *,
    names: Sequence[str],
    image_ids: Sequence[str],
    per_target: int,
) -> dict[str, list[Row]]:
    """Return the images with the largest loss among the wrong decisions on each diagnosis.

    Args:
        probability_NT: of the diagnoses.
        label_NT: 0 to 1, NaN where not annotated.
        called_NT: bool, decisions of the model.
        names: of the targets.
        image_ids: of the images.
        per_target: images of each at most.

    Returns:
        name -> `place` (of the image in the table), `image_id`, `label`, `probability`, `called`, `loss`, the
        largest loss first; of up to `MAX_TARGETS` targets, those with the largest losses, in their order.
    """
    loss_NT = log_loss(probability_NT, label_NT)
    wrong_NT = (called_NT != (label_NT >= 0.5)) & ~np.isnan(label_NT)
    masked_NT = np.where(wrong_NT, loss_NT, -np.inf)
    if not len(masked_NT) or not per_target:
        return {}
    chosen = np.argsort(-masked_NT.max(axis=0), kind="stable")[:MAX_TARGETS]
    found = {}
    for t in sorted(chosen.tolist()):
        order = np.argsort(-masked_NT[:, t], kind="stable")[:per_target]
        rows = [
            {
                "place": int(n),
                "image_id": image_ids[n],
                "label": float(label_NT[n, t]),
                "probability": float(probability_NT[n, t]),
                "called": bool(called_NT[n, t]),
                "loss": float(loss_NT[n, t]),
            }
            for n in order.tolist()
            if wrong_NT[n, t]
        ]
        if rows:
            found[names[t]] = rows
    return found
