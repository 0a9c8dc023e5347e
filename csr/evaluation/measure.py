"""Everything that is measured of a trained model on labelled images, as plain JSON.

`csr.evaluation.rows` runs the model once over the images, `measure` computes all results from its rows.

Letters: N images, K concepts, M prototypes per concept, T targets, L labels (K or T), V plays of the
simulated doctor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from csr.data.dataset import LabelledImages
from csr.data.labels.positive import is_positive
from csr.evaluation.bootstrap import Bootstrap
from csr.evaluation.calibration import errors_by_label, reliability_by_label
from csr.evaluation.curves import measure_curves
from csr.evaluation.flags.flagged import measure_doubt, measure_novelty
from csr.evaluation.label_scores import score_labels
from csr.evaluation.pointing_game import score_pointing
from csr.evaluation.rows import Rows
from csr.evaluation.simulation.changes import score_plays
from csr.evaluation.simulation.doctor import Play
from csr.evaluation.worst_errors import worst_errors
from csr.model.doubt import doubts
from csr.model.sharing.card import Card


def measure(
    rows: Rows,
    dataset: LabelledImages,
    card: Card,
    *,
    kept_KM: torch.Tensor | None,
    bootstrap: Bootstrap,
    groups: dict[str, np.ndarray] | None = None,
    plays: tuple[Play, ...] = (),
    errors_per_target: int = 0,
) -> dict[str, Any]:
    """Compute all results from the predictions. Collective; the same on every rank.

    Args:
        rows: from `csr.evaluation.rows.predict_all`.
        dataset: the images.
        card: of the model.
        kept_KM: bool (K, M), the model's prototypes that were not dropped; None: a baseline.
        bootstrap: of all intervals.
        groups: value -> places of its images, from `read_groups`.
        plays: as passed to `predict_all`.
        errors_per_target: images of the worst errors on each diagnosis.

    Returns:
        `targets` and `concepts` (see `score_labels`), `curves` (see `measure_curves`), `calibration` (label
        -> method, errors before and after it), `reliability`, `prototypes`, `doubt`, `worst_errors` (see
        there); `novelty`, `localisation`, `groups` and `simulation`, each None where not asked for or not
        known; what is of concepts or prototypes is None of a model without.
    """
    labels = {"target": dataset.table.target_NT, "concept": dataset.table.concept_NK}
    everyone = np.arange(len(dataset.table))
    scores = _score_both(rows, labels, everyone, card, bootstrap)
    return {
        **scores,
        **_calibrated(rows, labels, card),
        "curves": _curves(rows, labels, card),
        "worst_errors": worst_errors(
            rows["target"].numpy(),
            labels["target"],
            card.called(rows["target"]).numpy(),
            names=card.target_names,
            image_ids=dataset.table.image_ids,
            per_target=errors_per_target,
        ),
        "localisation": _localisation(rows, dataset, card, bootstrap),
        "prototypes": None
        if kept_KM is None
        else count_used(
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


def _curves(rows: Rows, labels: dict[str, np.ndarray], card: Card) -> dict[str, Any]:
    """Return `measure_curves` by kind; None of a kind that the model lacks."""
    kinds = {
        "target": (card.target_names, card.called),
        "concept": (card.concept_names, card.called_concepts),
    }
    return {
        f"{kind}s": measure_curves(rows[kind].numpy(), labels[kind], called(rows[kind]).numpy(), names=names)
        if kind in rows
        else None
        for kind, (names, called) in kinds.items()
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


def count_used(
    winner_NK: np.ndarray, concept_NK: np.ndarray, *, kept_KM: np.ndarray, names: tuple[str, ...]
) -> dict[str, Any]:
    """Count the prototypes that have their concept's highest score in at least one image with the concept.

    They are *used* by these images. An atlas also calls those alive that are nearest to a training vector.

    Args:
        winner_NK: index of the prototype that wins, -1: none.
        concept_NK: labels, present from 0.5.
        kept_KM: bool; `total` does not count dropped prototypes.
        names: of the concepts.

    Returns:
        `used`, `total`, and `labels`: concept -> `used`, `total`, `images` with the concept, `wins` of each
        prototype.
    """
    labels = {}
    for k, name in enumerate(names):
        present_N = is_positive(concept_NK[:, k])
        winner_N = winner_NK[present_N, k].astype(np.int64)
        wins_M = np.bincount(winner_N[winner_N >= 0], minlength=kept_KM.shape[1])
        labels[name] = {
            "used": int(np.sum(wins_M > 0)),
            "total": int(kept_KM[k].sum()),
            "images": int(present_N.sum()),
            "wins": wins_M.tolist(),
        }
    used = sum(row["used"] for row in labels.values())
    return {"used": used, "total": int(kept_KM.sum()), "labels": labels}


def _simulation(
    rows: Rows, target_NT: np.ndarray, card: Card, plays: tuple[Play, ...], bootstrap: Bootstrap
) -> dict[str, Any]:
    return score_plays(
        card.called(rows["target"]).numpy(),
        card.called(rows["after"]).numpy(),
        target_NT,
        edited_NV=rows["edited"].numpy(),
        doubtful_N=np.array([line is not None for line in doubts(card, rows["target"])], dtype=bool),
        plays=plays,
        bootstrap=bootstrap,
    )
