"""What a run measures once for later use: decision thresholds, and scores with and without each concept.

Thresholds come from validation images, medians from training images; neither ever from test images.

Letters: N images, K concepts, M prototypes per concept, T targets, L labels (K or T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from csr.runtime.errors import InputError

FILE_NAME = "reference.json"


@dataclass(frozen=True, eq=False)
class Reference:
    """Measured values of one trained model; None where they were not measured.

    Attributes:
        concept_threshold_K, target_threshold_T: probabilities from which a label is called present.
        absent_KM, present_KM: median scores over training images without and with the concept.
    """

    concept_threshold_K: torch.Tensor | None = None
    target_threshold_T: torch.Tensor | None = None
    absent_KM: torch.Tensor | None = None
    present_KM: torch.Tensor | None = None

    def to_dict(self, *, concept_names: tuple[str, ...], target_names: tuple[str, ...]) -> dict[str, Any]:
        """Plain JSON, by name: a person can read and edit it."""
        rows = {
            "concept_thresholds": (concept_names, self.concept_threshold_K),
            "target_thresholds": (target_names, self.target_threshold_T),
            "absent_medians": (concept_names, self.absent_KM),
            "present_medians": (concept_names, self.present_KM),
        }
        return {
            key: None if value is None else dict(zip(names, value.tolist(), strict=True))
            for key, (names, value) in rows.items()
        }


def reference_from_dict(
    value: Any,
    *,
    concept_names: tuple[str, ...],
    target_names: tuple[str, ...],
    num_prototypes: int,
    where: str,
) -> Reference:
    """Read what `to_dict` wrote.

    Args:
        value: parsed JSON; a key that is absent or null was not measured.
        num_prototypes: M.
        where: the file, for messages.

    Raises:
        InputError: another name, a number missing, not finite or out of range.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where}: 'reference' is no JSON object")
    wanted: dict[str, tuple[tuple[str, ...], int, float]] = {
        "concept_thresholds": (concept_names, 0, 0.0), "target_thresholds": (target_names, 0, 0.0),
        "absent_medians": (concept_names, num_prototypes, -1.0),
        "present_medians": (concept_names, num_prototypes, -1.0),
    }  # fmt: skip
    unknown = sorted(str(key) for key in value if key not in wanted)
    if unknown:
        raise InputError(f"{where}: 'reference' has unknown keys: {', '.join(unknown)[:120]}")
    tensors = [
        None if value.get(key) is None else _rows(value[key], names, length, lowest, f"{where}: {key}")
        for key, (names, length, lowest) in wanted.items()
    ]
    return Reference(*tensors)


def _rows(value: Any, names: tuple[str, ...], length: int, lowest: float, where: str) -> torch.Tensor:
    """Numbers by name as a tensor (L,), or (L, length) of lists."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise InputError(f"{where}: one entry for each of {', '.join(names)[:160]}")
    rows = [value[name] if length else [value[name]] for name in names]
    if any(not isinstance(row, list) or len(row) != max(1, length) for row in rows):
        kind = f"a list of {length} numbers" if length else "one number"
        raise InputError(f"{where}: every entry is {kind}")
    if not all(_is_number(number, lowest) for row in rows for number in row):
        raise InputError(f"{where}: every number is from {lowest:g} to 1")
    table = torch.tensor(rows, dtype=torch.float32)
    return table if length else table[:, 0]


def _is_number(value: Any, lowest: float) -> bool:
    # a cosine that rounding put a little above 1 is still one
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and lowest - 1e-3 <= value <= 1 + 1e-3


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
        absent_KM, present_KM,
    )  # fmt: skip


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
    return np.array([
        _best_f1(probability_NL[known_NL[:, i], i].astype(np.float64), label_NL[known_NL[:, i], i] >= 0.5)
        for i in labels
    ])  # fmt: skip


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
