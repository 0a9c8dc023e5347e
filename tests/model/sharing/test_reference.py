"""Measured values as JSON: written by name, read back, and refused where they cannot be."""

from __future__ import annotations

import json

import pytest
import torch

from csr.model.sharing.reference import Reference, reference_from_dict
from csr.runtime.errors import InputError

NAMES = {"concept_names": ("a", "b"), "target_names": ("t",)}


def test_it_survives_json_and_may_be_half_measured():
    reference = Reference(None, torch.tensor([0.25]), torch.rand(2, 3), None)
    text = json.dumps(reference.to_dict(**NAMES))
    back = reference_from_dict(json.loads(text), **NAMES, num_prototypes=3, where="x")
    assert back.concept_threshold_K is None and back.present_KM is None
    assert torch.equal(back.target_threshold_T, reference.target_threshold_T)
    assert torch.equal(back.absent_KM, reference.absent_KM)


def test_a_map_is_clear_at_the_absent_median_and_never_shows_less_than_the_least_span():
    absent, present = torch.tensor([[0.25, 0.5, 0.5]]), torch.tensor([[0.75, 0.5625, 0.25]])
    reference = Reference(None, None, absent, present)
    assert reference.map_scale(0, 0) == (0.25, 0.75)
    for m in (1, 2):  # hardly any difference, and one the other way round
        assert reference.map_scale(0, m) == (0.5, pytest.approx(0.6))
    assert Reference(None, None, absent, None).map_scale(0, 0) is None


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"other": 1},
        {"target_thresholds": {"t": 1.5}},
        {"target_thresholds": {"t": True}},
        {"target_thresholds": {"u": 0.5}},
        {"absent_medians": {"a": [0.1] * 3}},
        {"absent_medians": {"a": [0.1] * 3, "b": [0.1] * 2}},
        {"concept_thresholds": [0.5, 0.5]},
        {"target_thresholds": {"t": float("nan")}},
        {"present_medians": {"a": [-2.0] * 3, "b": [0.1] * 3}},
    ],
)
def test_values_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match="^x"):
        reference_from_dict(wrong, **NAMES, num_prototypes=3, where="x")
