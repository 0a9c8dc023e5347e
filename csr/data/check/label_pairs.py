"""Labels in pairs: how often two come together, and columns that say the same.

Letters: N images, L labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from csr.data.labels.names import show, show_some
from csr.data.labels.positive import is_positive
from csr.data.labels.table import LabelTable

TWIN_SHARE, MIN_IMAGES = (
    0.9,
    5,
)  # of the images with either label, those with both; fewer images prove nothing
_ROWS = 8192  # counted at once: float32 is exact far beyond it
_MEANINGS = {
    "concept": "two names of one finding, or one column copied: prototypes of both learn the same",
    "target": "the concept is nearly the diagnosis by another name: it can explain little of it",
}


def pair_counts(table: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of images with both of two labels, and with either, int64 (L, L); concepts first.

    `either` counts images in which both labels are annotated.
    """
    num_labels = len(table.concept_names) + len(table.target_names)
    both_LL, either_LL = (np.zeros((num_labels, num_labels), dtype=np.int64) for _ in range(2))
    for begin in range(0, len(table), _ROWS):
        rows = slice(begin, begin + _ROWS)
        value_NL = np.concatenate([table.concept_NK[rows], table.target_NT[rows]], axis=1)
        # Products of float32 run on the fast path of the CPU, those of integers do not.
        positive_NL = is_positive(value_NL).astype(np.float32)
        known_NL = (~np.isnan(value_NL)).astype(np.float32)
        together_LL, first_LL = positive_NL.T @ positive_NL, positive_NL.T @ known_NL
        both_LL += together_LL.astype(np.int64)
        either_LL += (first_LL + first_LL.T - together_LL).astype(np.int64)
    return both_LL, either_LL


def cooccurrence(table: LabelTable, both_LL: np.ndarray) -> dict[str, Any]:
    """Return the numbers of images with both of two labels, `counts[i][j]`; on the diagonal of each label."""
    return {"names": [*table.concept_names, *table.target_names], "counts": both_LL.tolist()}


def twins(table: LabelTable, both_LL: np.ndarray, either_LL: np.ndarray) -> list[dict[str, Any]]:
    """Return pairs of a concept and another label that nearly always come together, the likest first.

    Args:
        table: N training images.
        both_LL, either_LL: of `pair_counts`.

    Returns:
        `concept`, `other`, `kind` of the other (concept or target), `both` and `either` (images), `share`.
    """
    names = [*table.concept_names, *table.target_names]
    num_concepts = len(table.concept_names)
    alike_LL = (either_LL >= MIN_IMAGES) & (both_LL >= TWIN_SHARE * either_LL)
    found = [
        {
            "concept": names[i],
            "other": names[j],
            "kind": "concept" if j < num_concepts else "target",
            "both": int(both_LL[i, j]),
            "either": int(either_LL[i, j]),
            "share": float(both_LL[i, j] / either_LL[i, j]),
        }
        for i, j in np.argwhere(np.triu(alike_LL, 1)).tolist()
        if i < num_concepts
    ]
    return sorted(found, key=lambda pair: -pair["share"])


def twin_warnings(found: list[dict[str, Any]]) -> list[str]:
    """Return a line for pairs of concepts, and one for concepts that are a diagnosis."""
    lines = []
    for kind, meaning in _MEANINGS.items():
        pairs = [
            f"{show(one['concept'])} = {show(one['other'])} in {one['share']:.0%} of the {one['either']} "
            "images with either"
            for one in found
            if one["kind"] == kind
        ]
        if pairs:
            lines.append(f"{show_some(pairs, limit=5)} ({meaning})")
    return lines
