"""What a probe reads of each image: the true concepts, and what a model has in their place.

Letters: N images, K concepts, M prototypes per concept, T targets, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.evaluation import inference
from csr.model.baselines import BaselineOutput, Network

TRUE, LOGITS, SCORES = "true concepts", "concept logits", "prototype scores"
Wrap = Callable[[Iterable[Batch], int], Iterator[Batch]]


@dataclass(frozen=True, eq=False)
class Represented:
    """Images as probes see them.

    Attributes:
        features: `TRUE` (N, K), NaN where not annotated, `LOGITS` (N, K), and of CSR `SCORES` (N, K * M);
            float64.
        target_NT: labels, NaN where not annotated.
    """

    features: dict[str, np.ndarray]
    target_NT: np.ndarray


def represent(
    model: Network,
    dataset: LabelledImages,
    *,
    batch_size: int,
    wrap: Wrap = lambda batches, total: iter(batches),
) -> Represented:
    """Run a model with concepts over images, sharded over ranks; every rank gets all rows. Collective.

    Args:
        model: in eval mode, with a card, on this rank's device; not a black box.
        dataset: the images.
        batch_size: per rank.
        wrap: shows progress over (batches, how many).
    """
    card = model.card
    assert card is not None and not model.training

    def predict(batch: Batch) -> dict[str, torch.Tensor]:
        output = model.from_features(model.features(batch["image"]))
        assert output.concept_logits is not None
        rows = {LOGITS: output.concept_logits}
        if not isinstance(output, BaselineOutput):
            rows[SCORES] = output.similarity_scores.flatten(1)
        return rows

    batches = inference.image_batches(
        dataset,
        transform=card.preprocessing.transform(),
        batch_size=batch_size,
        device=next(model.parameters()).device,
    )
    with torch.no_grad():
        rows = inference.predict_rows(predict, wrap(batches, inference.num_batches(len(dataset), batch_size)))
    found = {name: rows[name].double().numpy() for name in (LOGITS, SCORES) if name in rows}
    own = dataset.table.select(dataset.indices)
    return Represented({TRUE: own.concept_NK.astype(np.float64), **found}, own.target_NT)
