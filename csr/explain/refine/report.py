"""The effect of refining: numbers before and after, as lines for the terminal and as refine.json.

Letters: K concepts, M prototypes, T targets, N images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr import __version__
from csr.evaluation.bootstrap import Bootstrap, estimate
from csr.evaluation.label_scores import SCORES, LabelMeasure, known
from csr.evaluation.simulation.changes import count_changes
from csr.explain.refine.fit import Fit
from csr.explain.refine.reliance import Reliance
from csr.explain.refine.validation_loss import NAMES

FORMAT, FORMAT_VERSION = "csr-refine", 2
_PARTS = ("targets", "localisation", "prototypes")
Results = dict[str, Any]


def record_of(
    *,
    model: str,
    keep_csv: Path,
    csv: str,
    dropped: dict[str, list[int]],
    kept: int,
    head: str,
    fit: Fit,
    reliance: Reliance | None,
    names: tuple[str, ...],
    before: Results,
    after: Results,
    changes: Results,
    validation: Results,
) -> Results:
    """Return plain JSON of one refinement.

    Args:
        model: name of the one that was refined.
        keep_csv: what the doctor decided.
        csv: the test images.
        dropped: concept -> prototypes that went.
        kept: prototypes that are left.
        head: refit or keep: whether the head was fitted again.
        fit: of the head.
        reliance: of the diagnoses on what was dropped.
        names: of the concepts.
        before, after: of `csr.evaluation.measure`.
        changes: of `changes_of`.
        validation: scores on validation images before and after.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "csr_version": __version__,
        "model": model,
        "keep_csv": {"name": keep_csv.name, "sha256": hashlib.sha256(keep_csv.read_bytes()).hexdigest()},
        "test_csv": Path(csv).name,
        "dropped": dropped,
        "kept": kept,
        "head": head,
        "remaining_reliance": None if reliance is None else reliance.to_dict(names),
        "fit": {"epoch": fit.epoch, "history": fit.history},
        "changed_decisions": changes["fixed"] + changes["broken"],
        "changes": changes,
        "validation": validation,
        "before": {part: before[part] for part in _PARTS},
        "after": {part: after[part] for part in _PARTS},
    }


def dropped_of(kept_KM: np.ndarray, keep_KM: np.ndarray, names: Sequence[str]) -> dict[str, list[int]]:
    """Return the prototypes that a doctor rejects now, by concept."""
    gone_KM = kept_KM & ~keep_KM
    return {name: np.flatnonzero(gone_KM[k]).tolist() for k, name in enumerate(names) if gone_KM[k].any()}


Side = tuple[torch.Tensor, torch.Tensor]  # probability_NT and called_NT


def changes_of(before: Side, after: Side, target_NT: np.ndarray, *, bootstrap: Bootstrap) -> Results:
    """Return what refining did to the decisions, paired image by image. Collective.

    Args:
        before, after: probabilities and bool decisions on the same images.
        target_NT: labels, NaN where not annotated.
        bootstrap: of the intervals; both sides are measured on the same resamples.

    Returns:
        `count_changes` (`fixed`, `broken`, `net` with its interval, ..) and `differences`: score -> after
        minus before, of the macro scores in `NAMES`, {value, low, high}.
    """
    everywhere_N = np.ones(len(target_NT), dtype=bool)
    called = [side[1].numpy() for side in (before, after)]
    counts = count_changes(called[0], called[1], target_NT, everywhere_N, bootstrap=bootstrap)
    first, second = (LabelMeasure(side[0].numpy(), target_NT, side[1].numpy()) for side in (before, after))
    macro, places = target_NT.shape[1], [SCORES.index(name) for name in NAMES]
    measured = estimate(
        lambda weight_RN: (second(weight_RN) - first(weight_RN))[:, macro, places],
        num_images=len(target_NT),
        bootstrap=bootstrap,
        cells_per_image=target_NT.shape[1],
    )
    parts = {"value": measured.value, "low": measured.low, "high": measured.high}
    differences = {
        name: {key: known(float(part[s])) for key, part in parts.items()} for s, name in enumerate(NAMES)
    }
    return {**counts, "differences": differences}


def change_lines(changes: Results) -> list[str]:
    """Return the lines on what refining did to the decisions on test images."""
    net = changes["net"]
    lines = [
        f"Decisions on test images, {changes['decisions']}: {changes['fixed']} fixed (wrong, now right), "
        f"{changes['broken']} broken (right, now wrong), net share {_difference(net)}"
    ]
    paired = (f"{NAMES[name]} {_difference(value)}" for name, value in changes["differences"].items())
    return [*lines, f"Paired differences (same resamples): {', '.join(paired)}"]


def _difference(score: dict[str, float | None]) -> str:
    if score["value"] is None:
        return "-"
    if score["low"] is None or score["high"] is None:
        return f"{score['value']:+.4f}"
    return f"{score['value']:+.4f} ({score['low']:+.4f} to {score['high']:+.4f})"


def table_lines(before: Results, after: Results) -> list[str]:
    """Return before, after and change of what counts, one a line."""
    rows = list(_rows(before, after))
    width = max(len(name) for name, *_ in rows) + 2
    lines = [f"{'test images':<{width}} {'before':>8} {'after':>8} {'change':>8}"]
    for name, old, new in rows:
        change = "" if old is None or new is None else f"{new - old:+.4f}"
        lines.append(f"{name:<{width}} {_number(old):>8} {_number(new):>8} {change:>8}".rstrip())
    used = [f"{side['prototypes']['used']}/{side['prototypes']['total']}" for side in (before, after)]
    return [*lines, f"{'prototypes used':<{width}} {used[0]:>8} {used[1]:>8}"]


def _rows(before: Results, after: Results) -> list[tuple[str, float | None, float | None]]:
    def both(name: str, *path: str) -> tuple[str, float | None, float | None]:
        values = []
        for side in (before, after):
            for key in path:
                side = side[key]
            values.append(side["value"])
        return name, values[0], values[1]

    rows = [both(f"AUROC {name}", "targets", "labels", name, "auroc") for name in before["targets"]["labels"]]
    rows += [
        both("AUROC, macro", "targets", "macro", "auroc"),
        both("F1 at threshold, macro", "targets", "macro", "f1_at_threshold"),
        both("F1 at threshold, micro", "targets", "micro", "f1_at_threshold"),
    ]
    if before["localisation"] is not None and before["localisation"]["n"]:
        rows += [
            both("pointing game, mean of concepts", "localisation", "macro", "similarity_hit"),
            both("pointing game, all pairs", "localisation", "micro", "similarity_hit"),
        ]
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
