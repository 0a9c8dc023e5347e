"""Reference values of a trained model: thresholds and calibration by validation images, medians of training.

Letters: N images, K concepts, M prototypes per concept, T targets, L labels (K or T).
"""

from __future__ import annotations

import numpy as np
import torch

from csr.data.labels.positive import is_positive
from csr.model.calibration import Calibration, calibrate, calibrate_softmax, calibrated_thresholds
from csr.model.novelty import Novelty
from csr.model.sharing.card import Card, target_probability
from csr.model.sharing.reference import DEFAULT_THRESHOLD, Reference


def measure_reference(
    *,
    medians: tuple[torch.Tensor, torch.Tensor] | None,
    val_concept_logit_NK: torch.Tensor | None,
    val_concept_NK: np.ndarray,
    val_target_logit_NT: torch.Tensor,
    val_target_NT: np.ndarray,
    task_loss: str,
    concept_weight_K: torch.Tensor,
    target_weight_T: torch.Tensor,
    novelty: Novelty | None = None,
) -> Reference:
    """Return the thresholds, calibration and medians of a trained model.

    Args:
        medians: absent_KM and present_KM of the training images, see `concept_medians`; None: a model
            without prototypes.
        val_concept_logit_NK, val_concept_NK: logits and labels of the validation images; None: a model
            without concepts.
        val_target_logit_NT, val_target_NT: the same of the diagnoses.
        task_loss: bce, focal or ce, see `target_probability`.
        concept_weight_K, target_weight_T: positive weights of the training losses.
        novelty: from `csr.model.novelty.fit_novelty`.

    Returns:
        Values of what the model has: thresholds (K,) and (T,) and medians (K, M), float32; calibrations.
    """
    absent_KM, present_KM = medians or (None, None)
    concept = (
        (None, None)
        if val_concept_logit_NK is None
        else decide_labels(val_concept_logit_NK, val_concept_NK, task_loss="bce", weight_L=concept_weight_K)
    )
    target = decide_labels(val_target_logit_NT, val_target_NT, task_loss=task_loss, weight_L=target_weight_T)
    return Reference(concept[0], target[0], absent_KM, present_KM, concept[1], target[1], novelty)


def decide_labels(
    logit_NL: torch.Tensor, label_NL: np.ndarray, *, task_loss: str, weight_L: torch.Tensor
) -> tuple[torch.Tensor, tuple[Calibration, ...]]:
    """Return thresholds of the highest F1, and calibrations; the thresholds are on the calibrated scale.

    Args:
        logit_NL, label_NL: of validation images; NaN where not annotated.
        task_loss: `ce` for diagnoses of which exactly one holds.
        weight_L: positive weights of the training loss.
    """
    threshold_L = best_f1_thresholds(target_probability(logit_NL, task_loss=task_loss).numpy(), label_NL)
    if task_loss == "ce":
        found = calibrate_softmax(logit_NL.numpy(), label_NL)
    else:
        found = calibrate(logit_NL.numpy(), label_NL, weight_L=weight_L.numpy())
    return torch.from_numpy(calibrated_thresholds(threshold_L, found)).float(), tuple(found)


def concept_medians(score_NKM: torch.Tensor, concept_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the median scores of images without and of images with each concept.

    Args:
        score_NKM: similarity scores of training images.
        concept_NK: labels 0 to 1 (present from 0.5), NaN where not annotated.

    Returns:
        absent_KM, present_KM; a concept with no image of a kind has the median of its annotated images (of
        all images, if none is).
    """
    absent: list[torch.Tensor] = []
    present: list[torch.Tensor] = []
    for k in range(score_NKM.shape[1]):
        score_NM, label_N = score_NKM[:, k], concept_NK[:, k]
        known_N = ~label_N.isnan()
        overall_N = known_N if known_N.any() else torch.ones_like(known_N)
        positive_N = is_positive(label_N)
        for medians, wanted_N in ((absent, known_N & ~positive_N), (present, known_N & positive_N)):
            chosen_N = wanted_N if wanted_N.any() else overall_N
            # numpy's: torch.quantile takes no more than 16 million numbers
            medians.append(torch.from_numpy(np.median(score_NM[chosen_N].float().numpy(), axis=0)))
    return torch.stack(absent), torch.stack(present)


def best_f1_thresholds(probability_NL: np.ndarray, label_NL: np.ndarray) -> np.ndarray:
    """Return the threshold of each label with the highest F1 on these (validation) images.

    It lies midway between two neighbouring probabilities, so that new images do not lie on it; of several
    equally good ones it is the highest.

    Args:
        probability_NL: 0 to 1.
        label_NL: 0 to 1 (positive from 0.5), NaN where not annotated.

    Returns:
        threshold_L, float64; 0.5 where no image is positive.
    """
    thresholds = []
    for probability_N, label_N in zip(probability_NL.T, label_NL.T, strict=True):
        known_N = ~np.isnan(label_N)
        thresholds.append(_best_f1(probability_N[known_N].astype(np.float64), is_positive(label_N[known_N])))
    return np.array(thresholds)


def _best_f1(probability_N: np.ndarray, positive_N: np.ndarray) -> float:
    if not positive_N.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probability_N, kind="stable")
    value_N, hits_N = probability_N[order], np.cumsum(positive_N[order])
    called_N = np.arange(1, len(value_N) + 1)
    f1_N = 2 * hits_N / (called_N + positive_N.sum())
    f1_N[:-1][value_N[:-1] == value_N[1:]] = -1.0  # no threshold lies between equal probabilities
    best = int(np.argmax(f1_N))
    below = value_N[best + 1] if best + 1 < len(value_N) else 0.0
    return float((value_N[best] + below) / 2)


def threshold_notices(card: Card, *, has_concepts: bool = True, has_prototypes: bool = True) -> list[str]:
    """Return lines on how labels are called, for readers of the results; none where nothing is unusual."""
    lines = []
    missing = ["concept"] if has_concepts and card.reference.concept_threshold_K is None else []
    if card.exactly_one:
        lines.append("Exactly one target holds: the likeliest is the one called, without a threshold.")
    elif card.reference.target_threshold_T is None:
        missing.append("target")
    if missing:
        kinds = " and ".join(missing)
        lines.append(f"The model has no {kinds} thresholds from validation images: 0.5 is used.")
    return [*lines, *card.notices(has_concepts=has_concepts, has_prototypes=has_prototypes)]
