"""Everything that is measured of a trained model on labelled images, as plain JSON.

Two steps: `predict_all` runs the model once over the images, `measure` computes all results from its rows.

Letters: B batch, N images, K concepts, M prototypes per concept, T targets, L labels (K or T), S scores of
the pointing game, V plays of the simulated doctor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.data.labels.positive import is_positive
from csr.data.labels.table import LabelTable
from csr.evaluation import inference
from csr.evaluation.bootstrap import Bootstrap
from csr.evaluation.calibration import errors_by_label, reliability_by_label
from csr.evaluation.comparison.predictions import Predictions, Scored
from csr.evaluation.flags.flagged import measure_doubt, measure_novelty
from csr.evaluation.label_scores import score_labels
from csr.evaluation.pointing_game import pointing_rows, score_pointing
from csr.evaluation.simulated_doctor import Play, play_doctor, score_plays
from csr.model import CSR
from csr.model.baselines import BaselineOutput, Network
from csr.model.edit_safety import top_two_gap
from csr.model.interaction import ALPHA
from csr.model.layers.prototypes import winners
from csr.model.novelty import novelty_rows
from csr.model.sharing.card import Card, target_probability
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
    card = model.card
    assert card is not None and not model.training
    batches = inference.image_batches(
        dataset,
        transform=card.preprocessing.transform(),
        batch_size=batch_size,
        device=next(model.parameters()).device,
    )
    with torch.no_grad():
        rows = inference.predict_rows(
            lambda batch: _predict_batch(model, card, batch, plays=plays, alpha=alpha),
            wrap(batches, inference.num_batches(len(dataset), batch_size)),
        )
    _check_finite(rows, dataset.table.image_ids)
    return rows


def _predict_batch(
    model: Network, card: Card, batch: Batch, *, plays: tuple[Play, ...], alpha: float
) -> Rows:
    """Return the rows of one batch, on the device; see `predict_all`."""
    feat_BCHW = model.features(batch["image"])
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


def measure(
    rows: Rows,
    dataset: LabelledImages,
    card: Card,
    *,
    kept_KM: torch.Tensor | None,
    bootstrap: Bootstrap,
    groups: dict[str, np.ndarray] | None = None,
    plays: tuple[Play, ...] = (),
) -> dict[str, Any]:
    """Compute all results from the predictions. Collective; the same on every rank.

    Args:
        rows: from `predict_all`.
        dataset: the images.
        card: of the model.
        kept_KM: bool (K, M), the model's prototypes that were not dropped; None: a baseline.
        bootstrap: of all intervals.
        groups: value -> places of its images, from `read_groups`.
        plays: as passed to `predict_all`.

    Returns:
        `targets` and `concepts` (see `score_labels`), `calibration` (label -> method, errors before and after
        it), `reliability`, `prototypes`, `doubt`; `novelty`, `localisation`, `groups` and `simulation`, each
        None where not asked for or not known; what is of concepts or prototypes is None of a model without.
    """
    labels = {"target": dataset.table.target_NT, "concept": dataset.table.concept_NK}
    everyone = np.arange(len(dataset.table))
    scores = _score_both(rows, labels, everyone, card, bootstrap)
    return {
        **scores,
        **_calibrated(rows, labels, card),
        "localisation": _localisation(rows, dataset, card, bootstrap),
        "prototypes": None
        if kept_KM is None
        else count_alive(
            rows["winner"].numpy(), labels["concept"], kept_KM=kept_KM.cpu().numpy(), names=card.concept_names
        ),
        "groups": None
        if groups is None
        else {
            value: {"images": len(some_N), **_score_both(rows, labels, some_N, card, bootstrap)}
            for value, some_N in groups.items()
        },
        "novelty": measure_novelty(rows, card),
        "doubt": measure_doubt(rows, labels["target"], card),
        "simulation": _simulation(rows, labels["target"], card, plays, bootstrap) if plays else None,
    }


def _score_both(
    rows: Rows, labels: dict[str, np.ndarray], some_N: np.ndarray, card: Card, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return `targets` and `concepts` of the images at the places some_N."""
    threshold_T = None if card.exactly_one else card.target_threshold_T.numpy()
    kinds = {
        "target": (card.target_names, card.called, threshold_T),
        "concept": (card.concept_names, card.called_concepts, card.concept_threshold_K.numpy()),
    }
    return {
        f"{kind}s": score_labels(
            rows[kind].numpy()[some_N],
            labels[kind][some_N],
            called(rows[kind]).numpy()[some_N],
            names=names,
            threshold_L=threshold_L,
            bootstrap=bootstrap,
        )
        if kind in rows
        else None
        for kind, (names, called, threshold_L) in kinds.items()
    }


def _calibrated(rows: Rows, labels: dict[str, np.ndarray], card: Card) -> dict[str, Any]:
    """Return `calibration` and `reliability`, by kind; None of a kind that the model lacks."""
    kinds = {
        "target": (card.target_names, card.target_calibration_T),
        "concept": (card.concept_names, card.concept_calibration_K),
    }
    errors: dict[str, Any] = {f"{kind}s": None for kind in kinds}
    bins: dict[str, Any] = {**errors}
    for kind, (names, calibration_L) in kinds.items():
        if kind not in rows:
            continue
        raw_NL, found_NL = rows[f"{kind}_raw"].numpy(), rows[kind].numpy()
        methods = dict(zip(names, (one.method for one in calibration_L), strict=True))
        errors[f"{kind}s"] = errors_by_label(raw_NL, found_NL, labels[kind], methods=methods)
        bins[f"{kind}s"] = reliability_by_label(found_NL, labels[kind], names=names)
    return {"calibration": errors, "reliability": bins}


def _localisation(
    rows: Rows, dataset: LabelledImages, card: Card, bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """Return the scores of `score_pointing` and how many pairs with boxes are not labelled present."""
    if dataset.boxes is None:
        return None
    scores = score_pointing(rows["pointing"].numpy(), names=card.concept_names, bootstrap=bootstrap)
    pairs = np.unique(np.stack([dataset.boxes.image_R, dataset.boxes.class_R], axis=1), axis=0)
    return {**scores, "left_out": len(pairs) - scores["n"]}


def count_alive(
    winner_NK: np.ndarray, concept_NK: np.ndarray, *, kept_KM: np.ndarray, names: tuple[str, ...]
) -> dict[str, Any]:
    """Count the prototypes that have their concept's highest score in at least one image with the concept.

    Args:
        winner_NK: index of the prototype that wins, -1: none.
        concept_NK: labels, present from 0.5.
        kept_KM: bool; `total` does not count dropped prototypes.
        names: of the concepts.

    Returns:
        `alive`, `total`, and `labels`: concept -> `alive`, `total`, `images` with the concept, `wins` of each
        prototype.
    """
    labels = {}
    for k, name in enumerate(names):
        present_N = is_positive(concept_NK[:, k])
        winner_N = winner_NK[present_N, k].astype(np.int64)
        wins_M = np.bincount(winner_N[winner_N >= 0], minlength=kept_KM.shape[1])
        labels[name] = {
            "alive": int(np.sum(wins_M > 0)),
            "total": int(kept_KM[k].sum()),
            "images": int(present_N.sum()),
            "wins": wins_M.tolist(),
        }
    alive = sum(row["alive"] for row in labels.values())
    return {"alive": alive, "total": int(kept_KM.sum()), "labels": labels}


def _simulation(
    rows: Rows, target_NT: np.ndarray, card: Card, plays: tuple[Play, ...], bootstrap: Bootstrap
) -> dict[str, Any]:
    return score_plays(
        card.called(rows["target"]).numpy(),
        card.called(rows["after"]).numpy(),
        target_NT,
        edited_NV=rows["edited"].numpy(),
        gap_N=top_two_gap(rows["target"]).numpy(),
        plays=plays,
        bootstrap=bootstrap,
    )
