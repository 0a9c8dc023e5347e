"""Concept-to-target information and concept leakage, by the same linear probe on several representations.

Leakage is what a model's soft concepts tell of the target beyond the concepts that they stand for (Mahinpei
et al., Promises and Pitfalls of Black-Box Concept Learning Models, 2021; Havasi et al., Addressing Leakage in
Concept Bottleneck Models, NeurIPS 2022). Both measure it by comparing predictors of the target from true and
from soft concepts; so does this module, in macro AUROC on test images, as two differences:

    minus_true  = AUROC(representation) - AUROC(true concepts)
    beyond_true = AUROC(true concepts and representation) - AUROC(true concepts)

The first one is low where concepts are predicted badly, leakage or not; the second one is not.

Letters: N images, R resamples, P probes, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from csr.data.labels.positive import is_positive
from csr.evaluation.bootstrap import Bootstrap, Estimate, limits, resampled
from csr.evaluation.information.probe import Probed, learnable, probe
from csr.evaluation.information.representations import LOGITS, SCORES, TRUE, Represented
from csr.evaluation.label_scores import known, mean_of_known
from csr.evaluation.weighted_metrics import Ranking

MINUS, BEYOND = "minus_true", "beyond_true"
Results = dict[str, Any]


def measure_information(
    train: Represented, val: Represented, test: Represented, *, names: tuple[str, ...], bootstrap: Bootstrap
) -> Results:
    """Fit the probes on training images and measure them on test images. Collective.

    Args:
        train, val, test: with the same representations.
        names: of the T targets.
        bootstrap: of the test images; all probes see the same resamples.

    Returns:
        Plain JSON: `images` of train and val; `left_out`: targets of which training has one class; `unknown`:
        share of concept labels of the training images that are not annotated; `probes`: representation ->
        `features`, `strength`, `labels` (target -> AUROC), `macro`; `leakage`: `LOGITS` and of CSR `SCORES`
        -> `minus_true` and `beyond_true`, each `labels` and `macro`. AUROCs and differences are {value, low,
        high}, None where they do not exist.
    """
    sets = _sets([name for name in (LOGITS, SCORES) if name in test.features])
    probed = {name: _probed(parts, train, val, test) for name, parts in sets.items()}
    measured = _Measured(probed, test.target_NT, bootstrap)
    unknown = float(np.isnan(train.features[TRUE]).mean()) if train.features[TRUE].size else 0.0
    return {
        "images": {"train": len(train.target_NT), "val": len(val.target_NT)},
        "left_out": [name for name, can in zip(names, learnable(train.target_NT), strict=True) if not can],
        "unknown": unknown,
        "probes": {
            name: {
                "features": sum(test.features[part].shape[1] for part in parts),
                "strength": probed[name].strength,
                **_rows(measured.auroc(name), names),
            }
            for name, parts in sets.items()
        },
        "leakage": {
            name: {
                MINUS: _rows(measured.difference(name, TRUE), names),
                BEYOND: _rows(measured.difference(_both(name), TRUE), names),
            }
            for name in (LOGITS, SCORES)
            if name in test.features
        },
    }


def _sets(soft: list[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the probes: name -> the representations that it reads."""
    single = {name: (name,) for name in (TRUE, *soft)}
    return {**single, **{_both(name): (TRUE, name) for name in soft}}


def _both(name: str) -> str:
    return f"{TRUE} and {name}"


def _probed(parts: tuple[str, ...], train: Represented, val: Represented, test: Represented) -> Probed:
    joined = [
        np.concatenate([images.features[part] for part in parts], axis=1) for images in (train, val, test)
    ]
    return probe(joined[0], train.target_NT, val_NF=joined[1], val_target_NT=val.target_NT, test_NF=joined[2])


class _Measured:
    """AUROC of every probe and target, and macro, on all test images and on the same resamples."""

    def __init__(self, probed: Mapping[str, Probed], target_NT: np.ndarray, bootstrap: Bootstrap) -> None:
        self._place = {name: i for i, name in enumerate(probed)}
        rankings = [
            [_ranking(score_N, target_N) for score_N, target_N in zip(p.score_NT.T, target_NT.T, strict=True)]
            for p in probed.values()
        ]

        def measure(weight_RN: np.ndarray) -> np.ndarray:
            value_RPT = np.stack(
                [np.stack([_auroc(one, weight_RN) for one in of_probe], axis=1) for of_probe in rankings],
                axis=1,
            )
            macro_RP = np.stack(
                [mean_of_known(value_RT) for value_RT in np.moveaxis(value_RPT, 1, 0)], axis=1
            )
            return np.concatenate([value_RPT, macro_RP[:, :, None]], axis=2)

        self._value_PT, self._value_RPT = resampled(
            measure,
            num_images=len(target_NT),
            bootstrap=bootstrap,
            cells_per_image=target_NT.shape[1] * len(rankings),
        )

    def auroc(self, name: str) -> Estimate:
        """Return AUROC of each target and macro, (T + 1,)."""
        place = self._place[name]
        return Estimate(self._value_PT[place], *limits(self._value_RPT[:, place]))

    def difference(self, name: str, other: str) -> Estimate:
        """Return how much higher AUROC is with one probe than with another, (T + 1,)."""
        one, two = self._place[name], self._place[other]
        return Estimate(
            self._value_PT[one] - self._value_PT[two],
            *limits(self._value_RPT[:, one] - self._value_RPT[:, two]),
        )


def _ranking(score_N: np.ndarray, target_N: np.ndarray) -> tuple[np.ndarray, Ranking] | None:
    """Return the annotated images of a target and their ranking; None without a probe or any image."""
    some = np.flatnonzero(~np.isnan(target_N) & ~np.isnan(score_N))
    return (some, Ranking(score_N[some], is_positive(target_N[some]))) if len(some) else None


def _auroc(ranking: tuple[np.ndarray, Ranking] | None, weight_RN: np.ndarray) -> np.ndarray:
    """Return AUROC of each row of weights, (R,)."""
    if ranking is None:
        return np.full(len(weight_RN), np.nan)
    some, ranked = ranking
    return ranked.scores(weight_RN[:, some])[0]


def _rows(measured: Estimate, names: tuple[str, ...]) -> Results:
    parts = {"value": measured.value, "low": measured.low, "high": measured.high}
    rows = [{key: known(part[i]) for key, part in parts.items()} for i in range(len(names) + 1)]
    return {"labels": dict(zip(names, rows[:-1], strict=True)), "macro": rows[-1]}
