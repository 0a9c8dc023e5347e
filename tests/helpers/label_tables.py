"""Label tables of made-up labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csr.data.labels.table import LabelTable


def table_of(concept_NK, target_NT=None, *, patients: Sequence[str] | None = None) -> LabelTable:
    """A table of one reader an image; without targets it has none."""
    concept_NK = np.asarray(concept_NK, dtype=np.float32)
    num = len(concept_NK)
    targets = np.zeros((num, 0), np.float32) if target_NT is None else np.asarray(target_NT, np.float32)
    return LabelTable(
        path="t.csv",
        image_ids=tuple(f"i{n}" for n in range(num)),
        concept_names=tuple(f"c{n}" for n in range(concept_NK.shape[1])),
        target_names=tuple(f"t{n}" for n in range(targets.shape[1])),
        concept_NK=concept_NK,
        target_NT=targets,
        row_numbers=tuple(range(2, num + 2)),
        patient_ids=patients,
        num_readers_N=np.ones(num, dtype=np.int64),
    )
