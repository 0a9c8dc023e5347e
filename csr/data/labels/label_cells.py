"""Texts of a label cell: 0 and 1, also as 0.0 and 1.0, or nothing where the image is not annotated.

Letters: R rows, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csr.data.labels.csv_blocks import Column, each_cell

NO, YES, MISSING, INVALID = range(4)
_CODE_OF = {"0": NO, "1": YES, "0.0": NO, "1.0": YES, "": MISSING}


def label_code(text: str) -> int:
    """Return `NO`, `YES`, `MISSING`, or `INVALID` for a text that is no label."""
    return _CODE_OF.get(text, INVALID)


def label_codes(columns: Sequence[Column]) -> np.ndarray:
    """Return the code of each cell of L columns of a block, (R, L) uint8."""
    return each_cell(columns, label_code, np.uint8)
