"""What a resumed run takes over from the one that began."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from train_options import train_options

from csr.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from csr.model.backbones.normalisation import Normalisation
from csr.runtime.errors import InputError
from csr.training.checkpoints.resume_plan import Identity, Plan, Planner, identity_of

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


def compare(earlier: dict[str, Any], **now: Any) -> None:
    """Compare a run's options with those of an earlier one."""
    config = train_options(**now)
    own = identity_of(config, ds_config={}, precision="fp32", world=1)
    folder: Any = SimpleNamespace(path="results/run")
    Planner(config, own, folder, print).compare({"options": earlier, "precision": "fp32", "engine": {}})


def test_another_way_to_a_square_is_no_resumption():
    earlier = train_options(resize="letterbox").to_dict()
    compare(earlier, resize="letterbox")
    with pytest.raises(InputError, match="--resize was letterbox, now crop: give the same ones"):
        compare(earlier, resize="crop")


def test_what_a_run_did_not_know_had_its_default():
    earlier = train_options().to_dict()
    del earlier["data"]["resize"]
    compare(earlier)
    with pytest.raises(InputError, match="--resize was squash, now crop"):
        compare(earlier, resize="crop")
