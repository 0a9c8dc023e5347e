"""The mean calibration error of a validation or test pass."""

from __future__ import annotations

import numpy as np
import pytest

from csr.evaluation.calibration import mean_ece


def test_the_mean_error_leaves_out_labels_that_nobody_annotated():
    rng = np.random.default_rng(3)
    probability_NL = rng.random((40, 3))
    label_NL = (rng.random((40, 3)) < probability_NL**2).astype(float)
    label_NL[:, 1] = np.nan
    label_NL[:5, 2] = np.nan
    errors = []
    for i in (0, 2):  # by hand: bins of a tenth, weighted by their entries
        known = ~np.isnan(label_NL[:, i])
        p, y = probability_NL[known, i], label_NL[known, i]
        place = np.ceil(p * 10)
        errors.append(sum(abs((p - y)[place == s].mean()) * (place == s).mean() for s in np.unique(place)))
    assert mean_ece(probability_NL, label_NL) == pytest.approx(np.mean(errors))
    assert np.isnan(mean_ece(probability_NL[:, 1:2], label_NL[:, 1:2]))
