"""Maps of a frozen backbone are computed once after stage 1, and change no bit of what is made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from train_command import flags, start

from csr.data.transforms import EvalTransform
from csr.training.features.maps import KeptMaps
from csr.training.features.views import PlainView

VIEW = PlainView(EvalTransform(8))


COUNTING = """
import sys, torch
import csr.train
from csr.model import CSR
from csr.training.features import maps

maps.MEMORY_SHARE, passed, features = float(sys.argv[1]), 0, CSR.features

def counted(model, images):
    global passed
    passed += 0 if torch.is_grad_enabled() else len(images)
    return features(model, images)

CSR.features = counted
csr.train.main(sys.argv[2:])
print("passed without gradients:", passed)
"""


def counted_run(phantom, out, share):
    """Train; return the run's folder, and how many images passed the backbone without gradients."""
    arguments = flags(phantom, out, exp_name="run")
    done = start(Path(sys.executable).name, "-c", COUNTING, str(share), *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return out / "run", int(done.stdout.split("passed without gradients: ")[1])


def test_every_image_passes_the_frozen_backbone_once(phantom_folder, tmp_path):
    folder, kept = counted_run(phantom_folder, tmp_path / "kept", 0.25)
    again_folder, again = counted_run(phantom_folder, tmp_path / "again", 0.0)
    images = json.loads((folder / "config.json").read_text())["data"]["images"]
    # without keeping: training images for stage 2, stage 3 and the reference, validation ones for two of them
    assert again - kept == 2 * images["train"] + images["val"]
    expected, got = (torch.load(f / "final_model.pth", weights_only=True) for f in (again_folder, folder))
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    for name in ("reference.json", "results.json"):
        assert (folder / name).read_bytes() == (again_folder / name).read_bytes()


def test_maps_that_do_not_fit_are_all_forgotten():
    kept, dataset = KeptMaps(limit=2 * 4 * 6), object()
    feat = torch.ones(1, 2, 1, 3)  # 24 bytes
    for place in range(2):
        kept.keep(dataset, VIEW, np.array([place]), feat)
    assert kept.nbytes == 48
    assert kept.find(dataset, VIEW, np.array([1])) is feat
    kept.keep(dataset, VIEW, np.array([2]), feat)
    assert kept.nbytes == 0
    assert kept.find(dataset, VIEW, np.array([0])) is None
    kept.keep(dataset, VIEW, np.array([3]), feat)
    assert kept.find(dataset, VIEW, np.array([3])) is None


def test_maps_belong_to_their_data_set_view_and_places():
    kept, dataset = KeptMaps(limit=2**20), object()
    kept.keep(dataset, VIEW, np.array([0, 1]), torch.ones(2, 1, 1, 1))
    assert kept.find(dataset, VIEW, np.array([1, 0])) is None
    assert kept.find(object(), VIEW, np.array([0, 1])) is None
    assert kept.find(dataset, PlainView(EvalTransform(9)), np.array([0, 1])) is None
    kept.clear()
    assert kept.find(dataset, VIEW, np.array([0, 1])) is None
