"""What a new head costs: scores on validation images before and after, and warnings where they fall.

Letters: N images, T targets, F = K x M scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from csr.evaluation.label_scores import SCORES, LabelMeasure, known
from csr.explain.refine.fit import Scores
from csr.model.sharing.card import Card

MOST_LOST = {"auroc": 0.01, "f1_at_threshold": 0.03}  # of the macro score; more is warned of
NAMES = {"auroc": "macro AUROC", "f1_at_threshold": "macro F1 at threshold"}


def validation_scores(
    card: Card, weight_TF: torch.Tensor, bias_T: torch.Tensor, scores: Scores
) -> dict[str, float | None]:
    """Return the macro scores of `MOST_LOST` of a head on validation images as they are.

    Args:
        card: whose calibration and thresholds go with the head.
        weight_TF, bias_T: of the head, on raw scores.
        scores: of validation images; those of dropped prototypes may be anything where the weight is 0.
    """
    logit_NT = torch.nn.functional.linear(scores.score_NF, weight_TF, bias_T)
    probability_NT = card.probability(logit_NT)
    measured = LabelMeasure(
        probability_NT.numpy(), scores.target_NT.numpy(), card.called(probability_NT).numpy()
    )
    macro_S = measured(np.ones((1, len(logit_NT))))[0, len(card.target_names)]
    return {name: known(float(macro_S[SCORES.index(name)])) for name in MOST_LOST}


def loss_lines(record: dict[str, Any], *, head: str) -> list[str]:
    """Return a warning for each macro score that falls by more than `MOST_LOST`, with both numbers.

    On test images it must also fall beyond chance: the interval of the paired difference is below 0.

    Args:
        record: of `csr.explain.refine.report`.
        head: one of `csr.explain.refine.options.HEADS`.
    """
    lines, validation = [], record["validation"]
    for name, most in MOST_LOST.items():
        before, after = (validation[when][name] for when in ("before", "after"))
        if before is not None and after is not None and before - after > most:
            lines.append(
                f"Warning: --head {head} takes the {NAMES[name]} of {validation['images']} validation images "
                f"from {before:.3f} to {after:.3f}, by more than {most:g}: another --head may lose less"
            )
        change = record["changes"]["differences"][name]
        if change["high"] is not None and change["high"] < 0 and change["value"] < -most:
            old, new = (record[when]["targets"]["macro"][name]["value"] for when in ("before", "after"))
            lines.append(
                f"Warning: --head {head} takes the {NAMES[name]} of the test images from {old:.3f} to "
                f"{new:.3f} ({change['low']:+.3f} to {change['high']:+.3f}): another --head may lose less"
            )
    return lines
