"""Scores made probabilities: a line through each label's logits, fitted on validation images.

Training weights rare labels up, so that the sigmoid of a logit overstates them. Undone in two steps: the
logarithm of the positive weight is taken off the logit (what the weight adds to it in the optimum), then
Platt's line is fitted (Platt 1999, with his targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2)). The line is taken
where its log loss on images that it was not fitted on is lower by more than a standard error. All lines rise:
no ranking changes.

Letters: N images, L labels (K concepts or T targets), F folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from csr.data.labels.positive import is_positive
from csr.runtime.errors import InputError

Method = Literal["score", "identity", "unweighted", "platt", "temperature"]
SCORE: Method = "score"
IDENTITY: Method = "identity"
UNWEIGHTED: Method = "unweighted"
PLATT: Method = "platt"
TEMPERATURE: Method = "temperature"
METHODS = get_args(Method)
MIN_POSITIVES = 5  # positive, and as many negative, validation images; with fewer a label keeps its score
NUM_FOLDS = 5
_STEPS, _LARGEST = 100, 1e6


@dataclass(frozen=True)
class Calibration:
    """One label's way from logit to probability: sigmoid (or softmax) of scale x logit + offset.

    Attributes:
        method: score: too few images to tell, not a probability; identity: nothing had a lower log loss;
            unweighted: the positive weight taken off; platt; temperature: one scale for a softmax.
        scale: above 0.
        offset: added to the logit.
    """

    method: Method = SCORE
    scale: float = 1.0
    offset: float = 0.0

    @property
    def is_probability(self) -> bool:
        """Whether images showed what the score is worth."""
        return self.method != SCORE

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)


def calibration_from_dict(value: Any, *, where: str) -> Calibration:
    """Read what `to_dict` wrote.

    Raises:
        InputError: another method, a scale that is not above 0, a number that is not finite.
    """
    if not isinstance(value, dict) or set(value) != {"method", "scale", "offset"}:
        raise InputError(f"{where}: every entry has method, scale and offset")
    if value["method"] not in METHODS:
        raise InputError(f"{where}: method {str(value['method'])[:40]!r}: one of {', '.join(METHODS)}")
    numbers = (value["scale"], value["offset"])
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise InputError(f"{where}: scale and offset are numbers")
    if not (1 / _LARGEST <= numbers[0] <= _LARGEST and -_LARGEST <= numbers[1] <= _LARGEST):
        raise InputError(f"{where}: scale is above 0, and neither number is larger than {_LARGEST:g}")
    return Calibration(value["method"], float(numbers[0]), float(numbers[1]))


def calibrated_logits(logit_NL: torch.Tensor, calibrations: Sequence[Calibration] | None) -> torch.Tensor:
    """Return logits of calibrated probabilities, (..., L); None: as they are, to the last bit."""
    if calibrations is None or all((c.scale, c.offset) == (1.0, 0.0) for c in calibrations):
        return logit_NL
    scale_L, offset_L = (
        torch.tensor([getattr(c, name) for c in calibrations], dtype=torch.float32, device=logit_NL.device)
        for name in ("scale", "offset")
    )
    return scale_L * logit_NL + offset_L


def calibrated_thresholds(threshold_L: np.ndarray, calibrations: Sequence[Calibration]) -> np.ndarray:
    """Return where thresholds on uncalibrated probabilities go, so that the decisions stay.

    Of a temperature (softmax) they stay as they are: nothing is decided by them.
    """
    with np.errstate(divide="ignore"):
        logit_L = np.log(threshold_L) - np.log1p(-threshold_L)
    moved = [
        threshold if one.method == TEMPERATURE else _sigmoid(one.scale * logit + one.offset)
        for threshold, logit, one in zip(threshold_L, logit_L, calibrations, strict=True)
    ]
    return np.array(moved, dtype=np.float64)


def calibrate(logit_NL: np.ndarray, label_NL: np.ndarray, *, weight_L: np.ndarray) -> list[Calibration]:
    """Calibrate labels that hold independently of each other.

    Args:
        logit_NL: of validation images.
        label_NL: 0 to 1, NaN where not annotated.
        weight_L: positive weights of the training loss.
    """
    found = []
    for logit_N, label_N, weight in zip(logit_NL.T, label_NL.T, weight_L.tolist(), strict=True):
        known_N = ~np.isnan(label_N)
        found.append(_calibrate_one(logit_N[known_N].astype(np.float64), label_N[known_N], math.log(weight)))
    return found


def _calibrate_one(logit_N: np.ndarray, label_N: np.ndarray, log_weight: float) -> Calibration:
    label_N = label_N.astype(np.float64)
    positives = int(is_positive(label_N).sum())
    if min(positives, len(label_N) - positives) < MIN_POSITIVES:
        return Calibration()
    chosen, plain_N, even_N = Calibration(IDENTITY), logit_N, logit_N - log_weight
    if log_loss(even_N, label_N) < log_loss(plain_N, label_N):
        chosen, plain_N = Calibration(UNWEIGHTED, 1.0, -log_weight), even_N
    scale, offset = fit_platt(even_N, label_N)
    # a line that falls would turn the ranking over
    if scale >= 1 / _LARGEST and _is_better(_unseen(even_N, label_N), plain_N, label_N):
        chosen = Calibration(PLATT, scale, offset - scale * log_weight)
    return chosen


def _is_better(logit_N: np.ndarray, other_N: np.ndarray, label_N: np.ndarray) -> bool:
    """Return whether logits have a lower log loss than others, by more than a standard error."""
    return _is_clear(_losses(other_N, label_N) - _losses(logit_N, label_N))


def _is_clear(gain_N: np.ndarray) -> bool:
    return bool(gain_N.mean() > gain_N.std(ddof=1) / math.sqrt(len(gain_N)))


def _folds(label_N: np.ndarray) -> np.ndarray:
    """Return the fold of each image: dealt label by label, so that every fold has some of each."""
    fold_N = np.empty(len(label_N), dtype=np.int64)
    fold_N[np.argsort(label_N, kind="stable")] = np.arange(len(label_N)) % NUM_FOLDS
    return fold_N


def _unseen(logit_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Return each image's logit under Platt's line of the other folds."""
    fold_N, unseen_N = _folds(label_N), np.empty_like(logit_N)
    for f in range(NUM_FOLDS):
        scale, offset = fit_platt(logit_N[fold_N != f], label_N[fold_N != f])
        unseen_N[fold_N == f] = scale * logit_N[fold_N == f] + offset
    return unseen_N


def fit_platt(logit_N: np.ndarray, label_N: np.ndarray) -> tuple[float, float]:
    """Return scale and offset with the lowest log loss against Platt's targets, by Newton's method.

    Args:
        logit_N: float64.
        label_N: 0 to 1; a soft label lies between the two targets.
    """
    positives, total = float(label_N.sum()), len(label_N)
    high, low = (positives + 1) / (positives + 2), 1 / (total - positives + 2)
    target_N = low + label_N * (high - low)
    design_N2 = np.stack([logit_N, np.ones_like(logit_N)], axis=1)
    at_2 = np.array([1.0, 0.0])
    loss = float(_losses(design_N2 @ at_2, target_N).sum())
    for _ in range(_STEPS):
        p_N = _sigmoid(design_N2 @ at_2)
        slope_2 = design_N2.T @ (p_N - target_N)
        curve_22 = (design_N2 * (p_N * (1 - p_N))[:, None]).T @ design_N2 + 1e-10 * np.eye(2)
        step_2, length = np.linalg.solve(curve_22, slope_2), 1.0
        while length > 1e-10 and _losses(design_N2 @ (at_2 - length * step_2), target_N).sum() > loss:
            length /= 2
        at_2 = at_2 - length * step_2
        before, loss = loss, float(_losses(design_N2 @ at_2, target_N).sum())
        if before - loss <= 1e-12 * max(1.0, loss):
            break
    return float(at_2[0]), float(at_2[1])


def calibrate_softmax(logit_NT: np.ndarray, label_NT: np.ndarray) -> list[Calibration]:
    """Calibrate diagnoses of which exactly one holds: one scale for all, so that the likeliest stays so.

    The class weights of the loss are not taken off, for that would change which one is the likeliest.

    Args:
        logit_NT: of validation images.
        label_NT: rows with one 1; rows that are not complete are left out.
    """
    known_N = ~np.isnan(label_NT).any(axis=1)
    logit_NT, truth_N = logit_NT[known_N].astype(np.float64), label_NT[known_N].argmax(axis=1)
    num_targets = label_NT.shape[1]
    most = int(np.bincount(truth_N, minlength=num_targets).max()) if len(truth_N) else 0
    if len(truth_N) - most < MIN_POSITIVES:
        return [Calibration()] * num_targets
    fold_N = _folds(truth_N)
    unseen_N = np.empty(len(truth_N))
    for f in range(NUM_FOLDS):
        scale = fit_temperature(logit_NT[fold_N != f], truth_N[fold_N != f])
        unseen_N[fold_N == f] = _softmax_loss(scale * logit_NT[fold_N == f], truth_N[fold_N == f])
    if _is_clear(_softmax_loss(logit_NT, truth_N) - unseen_N):
        return [Calibration(TEMPERATURE, fit_temperature(logit_NT, truth_N))] * num_targets
    return [Calibration(IDENTITY)] * num_targets


def fit_temperature(logit_NT: np.ndarray, truth_N: np.ndarray) -> float:
    """Return the scale of the logits (1 / temperature), 0.01 to 100, with the lowest softmax log loss."""
    low, high = math.log(0.01), math.log(100.0)
    for _ in range(_STEPS):  # the loss has one minimum: keep the part that holds it
        left, right = low + (high - low) / 3, high - (high - low) / 3
        losses = [_softmax_loss(math.exp(at) * logit_NT, truth_N).mean() for at in (left, right)]
        low, high = (low, right) if losses[0] <= losses[1] else (left, high)
    return math.exp((low + high) / 2)


def log_loss(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """Return the mean cross-entropy of sigmoids against labels 0 to 1, in nats."""
    return float(_losses(logit_N, label_N).mean())


def _losses(logit_N: np.ndarray, target_N: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(0, logit_N) - target_N * logit_N)


def _softmax_loss(logit_NT: np.ndarray, truth_N: np.ndarray) -> np.ndarray:
    picked_N = np.take_along_axis(logit_NT, truth_N[:, None], axis=1)[:, 0]
    return np.logaddexp.reduce(logit_NT, axis=1) - picked_N


def _sigmoid(value: Any) -> Any:
    return np.exp(-np.logaddexp(0, -value))
