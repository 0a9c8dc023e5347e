"""Reference values of a trained model: thresholds by validation images, median scores of training images.

Letters: N images, K concepts, M prototypes per concept, T targets, L labels (K or T).
"""

from __future__ import annotations

import numpy as np
import torch

from csr.data.labels.positive import is_positive
from csr.model.sharing.reference import DEFAULT_THRESHOLD, Reference


def measure_reference(
    *,
    score_NKM: torch.Tensor,
    concept_NK: torch.Tensor,
    val_concept_probability_NK: np.ndarray,
    val_concept_NK: np.ndarray,
    val_target_probability_NT: np.ndarray,
    val_target_NT: np.ndarray,
) -> Reference:
    """Return the thresholds and medians of a trained model.

    Args:
        score_NKM, concept_NK: similarity scores and labels of the training images.
        val_concept_probability_NK, val_concept_NK: probabilities and labels of the validation images.
        val_target_probability_NT, val_target_NT: the same of the diagnoses.

    Returns:
        All four values, float32: thresholds (K,) and (T,), medians (K, M).
    """
    absent_KM, present_KM = concept_medians(score_NKM, concept_NK)
    return Reference(
        torch.from_numpy(best_f1_thresholds(val_concept_probability_NK, val_concept_NK)).float(),
        torch.from_numpy(best_f1_thresholds(val_target_probability_NT, val_target_NT)).float(),
        absent_KM,
        present_KM,
    )


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
            medians.append(score_NM[chosen_N].float().quantile(0.5, dim=0))
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
