"""How often the notes that warn a reader appear on labelled images.

Letters: N images, S statistics.
"""

from __future__ import annotations

from typing import Any

import torch

from csr.evaluation.bootstrap import wilson
from csr.model.image_statistics import STATISTICS
from csr.model.sharing.card import Card


def rate(hits: int, number: int) -> dict[str, float | int | None]:
    """Return a share with Wilson's interval, 95 %: `value`, `low`, `high`, `hits`, `n`; None of no images."""
    if not number:
        return {"value": None, "low": None, "high": None, "hits": hits, "n": number}
    low, high = wilson(hits / number, number)
    return {"value": hits / number, "low": low, "high": high, "hits": hits, "n": number}


def measure_novelty(rows: dict[str, torch.Tensor], card: Card) -> dict[str, Any] | None:
    """Count the images that the model takes for unlike its training images.

    Args:
        rows: of `csr.evaluation.measure.predict_all`, `novelty` (N, S) among them.
        card: of the model.

    Returns:
        The `rate` of flagged images, with `limit`, and `by`: statistic -> images above the limit by it; None
        where the card has no statistics of training images.
    """
    novelty = card.reference.novelty
    if novelty is None:
        return None
    above_NS = ~(rows["novelty"] <= novelty.limit)
    return {
        **rate(int(above_NS.any(dim=1).sum()), len(above_NS)),
        "limit": novelty.limit,
        "by": dict(zip(STATISTICS, above_NS.sum(dim=0).tolist(), strict=True)),
    }
