"""Reference values of a trained model: thresholds from validation images, median scores from training images."""

from __future__ import annotations

import numpy as np
import torch

from csr.model.sharing.reference import Reference


def measure_reference(
    *,
    score_NKM: torch.Tensor,
    concept_NK: torch.Tensor,
    val_concept_probability_NK: np.ndarray,
    val_concept_NK: np.ndarray,
    val_target_probability_NT: np.ndarray,
    val_target_NT: np.ndarray,
) -> Reference:
    """All values of one trained model, from what training has at its end.

    Args:
        score_NKM, concept_NK: similarity scores and labels of the training images.
        val_concept_probability_NK, val_concept_NK: probabilities and labels of the validation images.
        val_target_probability_NT, val_target_NT: the same of the diagnoses.
    """
    absent_KM, present_KM = concept_medians(score_NKM, concept_NK)
    return Reference(
        torch.from_numpy(best_f1_thresholds(val_concept_probability_NK, val_concept_NK)).float(),
        torch.from_numpy(best_f1_thresholds(val_target_probability_NT, val_target_NT)).float(),
        absent_KM,
        present_KM,
    )


def concept_medians(score_NKM: torch.Tensor, concept_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Median scores of images without and of images with each concept.

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
        for kept, wanted_N in ((absent, known_N & (label_N < 0.5)), (present, known_N & (label_N >= 0.5))):
            kept.append(score_NM[wanted_N if wanted_N.any() else overall_N].float().quantile(0.5, dim=0))
    return torch.stack(absent), torch.stack(present)


def best_f1_thresholds(probability_NL: np.ndarray, label_NL: np.ndarray) -> np.ndarray:
    """The threshold of each label with the highest F1 on these (validation) images.

    It lies midway between two neighbouring probabilities, so that new images do not sit on it; of several
    equally good ones it is the highest.

    Args:
        probability_NL: 0 to 1.
        label_NL: 0 to 1 (positive from 0.5), NaN where not annotated.

    Returns:
        threshold_L, float64; 0.5 where no image is positive.
    """
    known_NL = ~np.isnan(label_NL)
    labels = range(label_NL.shape[1])
    return np.array(
        [
            _best_f1(probability_NL[known_NL[:, i], i].astype(np.float64), label_NL[known_NL[:, i], i] >= 0.5)
            for i in labels
        ]
    )


def _best_f1(probability_N: np.ndarray, positive_N: np.ndarray) -> float:
    if not positive_N.any():
        return 0.5
    order = np.argsort(-probability_N, kind="stable")
    value_N, hits_N = probability_N[order], np.cumsum(positive_N[order])
    called_N = np.arange(1, len(value_N) + 1)
    f1_N = 2 * hits_N / (called_N + positive_N.sum())
    f1_N[:-1][value_N[:-1] == value_N[1:]] = -1.0  # equal probabilities cannot be told apart
    best = int(np.argmax(f1_N))
    below = value_N[best + 1] if best + 1 < len(value_N) else 0.0
    return float((value_N[best] + below) / 2)
