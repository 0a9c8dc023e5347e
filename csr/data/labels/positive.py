"""The rule that makes a label positive, for arrays and tensors of labels from 0 to 1.

Labels of merged readers are 0 or 1; only `soft` ones, means over readers, lie between. What is not annotated
(NaN) is neither positive nor negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Labels = TypeVar("Labels", np.ndarray, "torch.Tensor")
POSITIVE = 0.5


def is_positive(label: Labels) -> Labels:
    """Return where labels of any shape are at least one half, bool of that shape."""
    return label >= POSITIVE


def is_negative(label: Labels) -> Labels:
    """Return where labels of any shape are below one half, bool of that shape."""
    return label < POSITIVE
