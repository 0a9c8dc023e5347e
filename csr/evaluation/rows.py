"""One pass of a model over labelled images: what all that is measured is computed from.

Letters: B batch, N images, K concepts, M prototypes per concept, T targets, S scores of the pointing game
or statistics of novelty, V plays of the simulated doctor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.data.labels.table import LabelTable
from csr.evaluation import inference
from csr.evaluation.comparison.predictions import Predictions, Scored
from csr.evaluation.pointing_game import pointing_rows
from csr.evaluation.simulation.doctor import Play, play_doctor
from csr.model import CSR
from csr.model.baselines import BaselineOutput, Network
from csr.model.interaction import ALPHA
from csr.model.layers.prototypes import winners
from csr.model.novelty import novelty_rows
from csr.model.sharing.card import target_probability
from csr.runtime.errors import StoppedError

Rows = dict[str, torch.Tensor]
Wrap = Callable[[Iterable[Batch], int], Iterator[Batch]]


def predict_all(
    model: Network,
    dataset: LabelledImages,
    *,
    batch_size: int,
    plays: tuple[Play, ...] = (),
    alpha: float = ALPHA,
    wrap: Wrap = lambda batches, total: iter(batches),
) -> Rows:
    """Run the model over all images, sharded over ranks; every rank gets all rows. Collective.

    Args:
        model: in eval mode, with a card, on this rank's device; a baseline without boxes and plays.
        dataset: the images, with boxes if there are any.
        batch_size: per rank.
        plays: of the simulated doctor.
        alpha: importance outside of boxes.
        wrap: shows progress over (batches, how many).

    Returns:
        Rows on the CPU, in the order of the data set: probabilities `target` (N, T) and `concept` (N, K),
        `target_raw` and `concept_raw` before calibration, `winner` (N, K) the prototype with the highest
        score (-1 where all were dropped), as far as the model has concepts and prototypes; `novelty` (N, S)
        where the card has it; with boxes `pointing` (N, K, S); with plays `after` (N, V, T) and `edited`
        (N, V).

    Raises:
        StoppedError: the model gives numbers that are not finite.
    """
    return predict_beside([model], dataset, batch_size=batch_size, plays=plays, alpha=alpha, wrap=wrap)[0]


def predict_beside(
    models: Sequence[Network],
    dataset: LabelledImages,
    *,
    batch_size: int,
    plays: tuple[Play, ...] = (),
    alpha: float = ALPHA,
    wrap: Wrap = lambda batches, total: iter(batches),
) -> list[Rows]:
    """Return the rows of models that share a backbone, whose features are computed once. Collective.

    Args:
        models: as in `predict_all`; with the weights of the first one's backbone and the same preprocessing.
        dataset, batch_size, plays, alpha, wrap: see `predict_all`.

    Returns:
        The rows of each.

    Raises:
        StoppedError: a model gives numbers that are not finite.
    """
    first = models[0]
    assert first.card is not None and not any(model.training for model in models)
    batches = inference.image_batches(
        dataset,
        transform=first.card.preprocessing.transform(),
        batch_size=batch_size,
        device=next(first.parameters()).device,
    )

    def predict(batch: Batch) -> Rows:
        feat_BCHW = first.features(batch["image"])
        every = (_predict_batch(model, batch, feat_BCHW, plays=plays, alpha=alpha) for model in models)
        return {f"{i} {name}": row for i, rows in enumerate(every) for name, row in rows.items()}

    with torch.no_grad():
        found = inference.predict_rows(
            predict, wrap(batches, inference.num_batches(len(dataset), batch_size))
        )
    separate = [
        {name.split(" ", 1)[1]: row for name, row in found.items() if name.startswith(f"{i} ")}
        for i in range(len(models))
    ]
    for rows in separate:
        _check_finite(rows, dataset.table.image_ids)
    return separate


def _predict_batch(
    model: Network, batch: Batch, feat_BCHW: torch.Tensor, *, plays: tuple[Play, ...], alpha: float
) -> Rows:
    """Return the rows of one batch, on the device; see `predict_all`."""
    card = model.card
    assert card is not None
    output = model.from_features(feat_BCHW)
    rows = {
        "target": card.probability(output.logits),
        "target_raw": target_probability(output.logits, task_loss=card.task_loss),
    }
    if output.concept_logits is not None:
        rows["concept"] = card.concept_probability(output.concept_logits)
        rows["concept_raw"] = output.concept_logits.sigmoid()
    if isinstance(output, BaselineOutput):
        return rows
    assert isinstance(model, CSR)
    kept_KM = model.prototypes.kept_KM
    rows["winner"] = winners(output.similarity_scores, kept_KM)
    rows |= novelty_rows(model, batch["image"], feat_BCHW, output.similarity_scores)
    if "box" in batch:
        rows["pointing"] = pointing_rows(output.cams, output.similarity_maps, batch, kept_KM=kept_KM)
    if plays:
        rows |= play_doctor(
            output.similarity_maps,
            card.called_concepts(rows["concept"]),
            batch,
            plays=plays,
            card=card,
            kept_KM=kept_KM,
            diagnose=lambda score_BKM: card.probability(model.task_head(score_BKM)),
            alpha=alpha,
        )
    return rows


def predictions_of(rows: Rows, table: LabelTable) -> Predictions:
    """Return the probabilities of `predict_all` beside the labels of the same table."""
    labels = {
        "target": (table.target_names, table.target_NT),
        "concept": (table.concept_names, table.concept_NK),
    }
    nothing = np.zeros((len(table), 0), dtype=np.float32)
    kinds = {
        kind: Scored(names, rows[kind].numpy(), label) if kind in rows else Scored((), nothing, nothing)
        for kind, (names, label) in labels.items()
    }
    return Predictions(tuple(table.image_ids), kinds)


def _check_finite(rows: Rows, image_ids: Sequence[str]) -> None:
    finite_N = rows["target"].isfinite().all(dim=1)
    if "concept" in rows:
        finite_N &= rows["concept"].isfinite().all(dim=1)
    if not finite_N.all():
        first = [image_ids[i] for i in (~finite_N).nonzero()[:4, 0].tolist()]
        count = int((~finite_N).sum())
        raise StoppedError(f"the model gives no finite numbers for {count} images: {', '.join(first)}")
