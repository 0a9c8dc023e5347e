"""Values that a run measures once for later use: thresholds, calibration, scores with and without a concept.

Thresholds and calibration come from validation images, medians from training images, what images look like
from both; nothing ever from test images.

Letters: N images, K concepts, M prototypes per concept, T targets, L labels (K or T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from csr.model.calibration import Calibration, calibration_from_dict
from csr.model.doubt import DoubtRule, doubt_from_dict
from csr.model.novelty import Novelty, novelty_from_dict
from csr.runtime.errors import InputError

FILE_NAME = "reference.json"
MIN_SPAN = 0.1  # cosines; of a map's colours: less would show noise at full strength
DEFAULT_THRESHOLD = 0.5  # of a probability, where no validation images chose one


@dataclass(frozen=True, eq=False)
class Reference:
    """Measured values of one trained model; None where they were not measured.

    Attributes:
        concept_threshold_K, target_threshold_T: probabilities from which a label is called present.
        absent_KM, present_KM: median scores over training images without and with the concept.
        concept_calibration_K, target_calibration_T: the way from logits to probabilities. Thresholds are on
            the calibrated scale.
        doubt: when a doctor should decide.
        novelty: statistics of training images, for images that are unlike them.
    """

    concept_threshold_K: torch.Tensor | None = None
    target_threshold_T: torch.Tensor | None = None
    absent_KM: torch.Tensor | None = None
    present_KM: torch.Tensor | None = None
    concept_calibration_K: tuple[Calibration, ...] | None = None
    target_calibration_T: tuple[Calibration, ...] | None = None
    novelty: Novelty | None = None
    doubt: DoubtRule | None = None

    def map_scale(self, k: int, m: int) -> tuple[float, float] | None:
        """Return the cosines between which a prototype's map is coloured, (clear, brightest).

        They are its absent and its present median, or `MIN_SPAN` apart where the prototype does not tell
        the two apart; None where the medians were not measured.
        """
        if self.absent_KM is None or self.present_KM is None:
            return None
        low = float(self.absent_KM[k, m])
        return low, max(float(self.present_KM[k, m]), low + MIN_SPAN)

    def to_dict(self, *, concept_names: tuple[str, ...], target_names: tuple[str, ...]) -> dict[str, Any]:
        """Return plain JSON, by name, so that a person can read and edit it."""
        rows = {
            "concept_thresholds": (concept_names, self.concept_threshold_K),
            "target_thresholds": (target_names, self.target_threshold_T),
            "absent_medians": (concept_names, self.absent_KM),
            "present_medians": (concept_names, self.present_KM),
        }
        lines = {
            "concept_calibration": (concept_names, self.concept_calibration_K),
            "target_calibration": (target_names, self.target_calibration_T),
        }
        return {
            **{
                key: None if value is None else dict(zip(names, value.tolist(), strict=True))
                for key, (names, value) in rows.items()
            },
            **{
                key: None if value is None else {n: c.to_dict() for n, c in zip(names, value, strict=True)}
                for key, (names, value) in lines.items()
            },
            "novelty": None if self.novelty is None else self.novelty.to_dict(),
            "doubt": None if self.doubt is None else self.doubt.to_dict(),
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

    Returns:
        The values, float32.

    Raises:
        InputError: another name, a number missing, not finite or out of range.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where}: 'reference' is no JSON object")
    wanted: dict[str, tuple[tuple[str, ...], int, float]] = {
        "concept_thresholds": (concept_names, 0, 0.0),
        "target_thresholds": (target_names, 0, 0.0),
        "absent_medians": (concept_names, num_prototypes, -1.0),
        "present_medians": (concept_names, num_prototypes, -1.0),
    }
    lines = {"concept_calibration": concept_names, "target_calibration": target_names}
    unknown = sorted(str(key) for key in value if key not in (*wanted, *lines, "novelty", "doubt"))
    if unknown:
        raise InputError(f"{where}: 'reference' has unknown keys: {', '.join(unknown)[:120]}")
    tensors = [
        None if value.get(key) is None else _rows(value[key], names, length, lowest, f"{where}: {key}")
        for key, (names, length, lowest) in wanted.items()
    ]
    calibrations = [
        None if value.get(key) is None else _calibrations(value[key], names, f"{where}: {key}")
        for key, names in lines.items()
    ]
    novelty = doubt = None
    if value.get("doubt") is not None:
        doubt = doubt_from_dict(value["doubt"], target_names=target_names, where=f"{where}: doubt")
    if value.get("novelty") is not None:
        num_scores = len(concept_names) * num_prototypes
        novelty = novelty_from_dict(value["novelty"], num_scores=num_scores, where=f"{where}: novelty")
    concept_threshold_K, target_threshold_T, absent_KM, present_KM = tensors
    concept_K, target_T = calibrations
    return Reference(
        concept_threshold_K, target_threshold_T, absent_KM, present_KM, concept_K, target_T, novelty, doubt
    )


def _calibrations(value: Any, names: tuple[str, ...], where: str) -> tuple[Calibration, ...]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise InputError(f"{where}: one entry for each of {', '.join(names)[:160]}")
    return tuple(calibration_from_dict(value[name], where=where) for name in names)


def _rows(value: Any, names: tuple[str, ...], length: int, lowest: float, where: str) -> torch.Tensor:
    """Return numbers by name as a tensor (L,), or (L, length) of lists."""
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
