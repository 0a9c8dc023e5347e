"""The rule that makes a label positive."""

import numpy as np
import pytest
import torch

from csr.data.labels.positive import is_negative, is_positive


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_one_half_is_positive_and_what_is_not_annotated_is_neither(kind):
    label = kind([[0.0, 0.49, 0.5], [1.0, np.nan, 0.51]])
    assert is_positive(label).tolist() == [[False, False, True], [True, False, True]]
    assert is_negative(label).tolist() == [[True, True, False], [False, False, False]]
