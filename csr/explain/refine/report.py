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
from csr.explain.refine.fit import Fit
from csr.explain.refine.reliance import Reliance

FORMAT, FORMAT_VERSION = "csr-refine", 1
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
    changed: int,
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
        changed: decisions on test images that differ.
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
        "changed_decisions": changed,
        "before": {part: before[part] for part in _PARTS},
        "after": {part: after[part] for part in _PARTS},
    }


def dropped_of(kept_KM: np.ndarray, keep_KM: np.ndarray, names: Sequence[str]) -> dict[str, list[int]]:
    """Return the prototypes that a doctor rejects now, by concept."""
    gone_KM = kept_KM & ~keep_KM
    return {name: np.flatnonzero(gone_KM[k]).tolist() for k, name in enumerate(names) if gone_KM[k].any()}


def count_changed(before_NT: torch.Tensor, after_NT: torch.Tensor) -> int:
    """Return decisions (one diagnosis of one image) that differ."""
    return int((before_NT != after_NT).sum())


def table_lines(before: Results, after: Results) -> list[str]:
    """Return before, after and change of what counts, one a line."""
    rows = list(_rows(before, after))
    width = max(len(name) for name, *_ in rows) + 2
    lines = [f"{'test images':<{width}} {'before':>8} {'after':>8} {'change':>8}"]
    for name, old, new in rows:
        change = "" if old is None or new is None else f"{new - old:+.4f}"
        lines.append(f"{name:<{width}} {_number(old):>8} {_number(new):>8} {change:>8}".rstrip())
    alive = [f"{side['prototypes']['alive']}/{side['prototypes']['total']}" for side in (before, after)]
    return [*lines, f"{'prototypes alive':<{width}} {alive[0]:>8} {alive[1]:>8}"]


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
        both("F1, macro", "targets", "macro", "f1"),
        both("F1, micro", "targets", "micro", "f1"),
    ]
    if before["localisation"] is not None and before["localisation"]["n"]:
        rows += [
            both("pointing game, mean of concepts", "localisation", "macro", "similarity_hit"),
            both("pointing game, all pairs", "localisation", "micro", "similarity_hit"),
        ]
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
