"""What a resumed run takes over from the one that began."""

from __future__ import annotations

import pytest

from csr.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from csr.model.backbones.normalisation import Normalisation
from csr.training.checkpoints.resume_plan import Identity, Plan

HALF = (0.5, 0.5, 0.5)


def test_a_run_that_begins_has_no_normalisation_yet():
    assert Plan().normalisation is None


def test_a_resumed_run_normalises_as_it_began():
    identity = Identity({}, {}, "fp32", 16, 1).normalised(Normalisation(HALF, HALF, "of the timm model"))
    plan = Plan(manifest=identity.record())
    assert plan.normalisation is not None
    assert (plan.normalisation.mean, plan.normalisation.std) == (HALF, HALF)


def test_a_run_of_before_it_was_recorded_goes_on_with_imagenets():
    plan = Plan(manifest=Identity({}, {}, "fp32", 16, 1).record())
    assert plan.normalisation is not None
    assert (plan.normalisation.mean, plan.normalisation.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("kept", [{"mean": [0.5], "std": [0.5]}, {"mean": "abc", "std": [1, 1, 1]}])
def test_a_manifest_with_something_else_is_refused(kept):
    with pytest.raises(ValueError):
        _ = Plan(manifest={"normalisation": kept}).normalisation
