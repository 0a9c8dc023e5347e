"""The test table that a run prints, and the same numbers as results.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr.data.labels.names import cut_rows
from csr.evaluation.metrics import Metrics
from csr.model.sharing.reference import DEFAULT_THRESHOLD


def table_lines(concepts: Metrics | None, targets: Metrics) -> list[str]:
    """Return lines with AUROC, AP and F1 at 0.5 of each concept and target (up to 100 of each), macro, micro.

    Args:
        concepts: None of a model without concepts.
        targets: the diagnoses.
    """
    kinds = [("concept", concepts)] if concepts is not None else []
    kinds.append(("target", targets))
    width = max(len(name) for _, metrics in kinds for name in metrics.auc_by_label) + 2
    lines = []
    for title, metrics in kinds:
        lines.append(f"{title:<{width}} {'AUC':>7} {'AP':>7} {'F1@0.5':>7}")
        rows = []
        for name in metrics.auc_by_label:
            values = (metrics.auc_by_label[name], metrics.ap_by_label[name], metrics.f1_by_label[name])
            rows.append(f"{name:<{width}} {' '.join(f'{v:>7.4f}' for v in values)}")
        lines += cut_rows(rows, rest="results.json")
        lines.append(
            f"{'macro':<{width}} {metrics.auc:>7.4f} {metrics.mean_ap:>7.4f} {metrics.f1_macro:>7.4f}"
        )
        lines += [f"{'micro':<{width}} {'':>7} {'':>7} {metrics.f1_micro:>7.4f}", ""]
    return lines


def results_record(concepts: Metrics | None, targets: Metrics, *, num_images: int) -> dict[str, Any]:
    """Return the content of results.json; a number that does not exist on these images is null."""
    summary = {} if concepts is None else {f"concept_{k}": v for k, v in concepts.summary().items()}
    summary |= {f"target_{k}": v for k, v in targets.summary().items()}
    return {
        "summary": _known(summary),
        "num_images": num_images,
        "f1_threshold": DEFAULT_THRESHOLD,
        "concepts": {} if concepts is None else _by_label(concepts),
        "targets": _by_label(targets),
    }


def _by_label(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    return {
        name: _known({"auc": auc, "ap": metrics.ap_by_label[name], "f1": metrics.f1_by_label[name]})
        for name, auc in metrics.auc_by_label.items()
    }


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {k: None if np.isnan(v) else v for k, v in values.items()}
