"""Facts about the data for config.json and the model's card: names, counts, prevalence, but no image, no id.

Letters: N images, L labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from csr.data.labels.table import LabelTable, count_positives

ORIGIN_FILE, ORIGIN_FORMAT = "csr_dataset.json", "csr-dataset"
MAX_ORIGIN_BYTES = 2**16


def data_facts(
    train: LabelTable,
    test: LabelTable,
    *,
    train_indices: Sequence[int] | np.ndarray,
    val_indices: Sequence[int] | np.ndarray,
) -> dict[str, Any]:
    """Return origin (if known), images, readers, patients and labels of each split, as plain JSON.

    Args:
        train, test: label tables with the same columns.
        train_indices, val_indices: rows of `train` for training and for validation, integers.
    """
    splits = {"train": train.select(train_indices), "val": train.select(val_indices), "test": test}
    readers = {name: _readers(table) for name, table in splits.items()}
    facts: dict[str, Any] = dict(read_origin(Path(train.path).parent))
    facts["images"] = {name: len(table) for name, table in splits.items()}
    if unused := len(train) - len(train_indices) - len(val_indices):
        facts["images"]["unused"] = unused  # with --num_images
    if any(count != 1 for count in readers.values()):
        facts["readers_per_image"] = readers
    if train.patient_ids is not None:
        facts["patients"] = {name: len({*(t.patient_ids or ())} - {""}) for name, t in splits.items()}
    facts["labels"] = {
        name: {
            "kind": kind,
            **{split: _counts(_column(table, kind, place)) for split, table in splits.items()},
        }
        for kind, names in (("concept", train.concept_names), ("target", train.target_names))
        for place, name in enumerate(names)
    }
    return facts


def _column(table: LabelTable, kind: str, place: int) -> np.ndarray:
    return (table.concept_NK if kind == "concept" else table.target_NT)[:, place]


def _counts(label_N: np.ndarray) -> dict[str, int]:
    return {
        "positive": int(count_positives(label_N[:, None])[0]),
        "annotated": int(np.count_nonzero(~np.isnan(label_N))),
    }


def _readers(table: LabelTable) -> float:
    return round(float(table.num_readers_N.mean()), 2) if len(table) else 1.0


def read_origin(folder: Path) -> dict[str, str]:
    """Return dataset, source and citation as an importer wrote them beside its tables; {} if none did.

    Any other file of that name is ignored: it belongs to another program.
    """
    path = folder / ORIGIN_FILE
    try:
        if path.stat().st_size > MAX_ORIGIN_BYTES:
            return {}
        origin = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(origin, dict) or origin.get("format") != ORIGIN_FORMAT:
        return {}
    return {key: origin[key] for key in ("dataset", "source", "citation") if isinstance(origin.get(key), str)}
