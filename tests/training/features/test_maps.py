"""Maps of a frozen backbone are computed once after stage 1, and change no bit of what is made of them."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from train_command import flags, start

from csr.data.transforms import EvalTransform
from csr.training.features.maps import KeptMaps, map_batches
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


@pytest.mark.parametrize("limit", [0, 48])
def test_a_given_limit_outlives_the_maps_of_other_weights(limit):
    """`--cache off` is a limit of 0, and stage 1 forgets the maps before it trains."""
    kept, dataset = KeptMaps(limit=limit), object()
    for _ in range(2):  # overflow ends in a limit of its own, which is forgotten with the maps
        kept.clear()
        kept.keep(dataset, VIEW, np.array([0]), torch.ones(1, 2, 1, 3))
        assert kept.nbytes == min(limit, 24)
        kept.keep(dataset, VIEW, np.array([1, 2]), torch.ones(2, 2, 1, 3))
        assert kept.nbytes == 0


class Numbers:
    """Images that hold their number, and one label that says it too."""

    def load(self, position_B, view=None):
        return {
            "image": torch.from_numpy(position_B).float().view(-1, 1, 1, 1),
            **self.load_labels(position_B),
        }

    def load_labels(self, position_B):
        return {"concept": torch.from_numpy(position_B).float()[:, None]}


class Passed:
    """A backbone whose map is its image, and a view that changes nothing."""

    def __init__(self):
        self.images = []

    def features(self, image):
        self.images.extend(image.flatten().int().tolist())
        return image.expand(-1, 2, 1, 3).clone()

    def __call__(self, batch):
        return batch["image"], None

    def settings(self):
        return {}


@pytest.mark.parametrize("known", [[1], [0, 2], [3], [0, 3], [1, 2, 3], []])
def test_maps_that_become_too_many_in_the_midst_of_a_pass_stay_beside_their_own_images(known):
    """Limits of each number of maps, so that the pass overflows at each of the batches that it computes."""
    chunks, cpu = [np.arange(a, min(a + 3, 11)) for a in range(0, 11, 3)], torch.device("cpu")
    for limit in range(len(known), 5):
        kept, dataset, net = KeptMaps(limit=limit * 3 * 24), Numbers(), Passed()
        list(map_batches(net, dataset, [chunks[n] for n in known], net, device=cpu, kept=kept))
        net.images.clear()
        batches = list(map_batches(net, dataset, chunks, net, device=cpu, kept=kept))
        for batch, chunk in zip(batches, chunks, strict=True):
            assert batch["position"].tolist() == chunk.tolist()
            assert batch["feat"][:, 0, 0, 0].tolist() == batch["concept"][:, 0].tolist() == chunk.tolist()
        assert net.images == [i for n, chunk in enumerate(chunks) if n not in known for i in chunk]
        assert kept.nbytes == (11 * 24 if limit == 4 else 0)


def test_forgotten_maps_leave_memory_as_the_pass_goes_on():
    chunks, cpu = [np.arange(a, a + 2) for a in range(0, 8, 2)], torch.device("cpu")
    kept, dataset, net = KeptMaps(limit=3 * 2 * 24), Numbers(), Passed()
    list(map_batches(net, dataset, chunks[1:], net, device=cpu, kept=kept))
    maps = [weakref.ref(kept.find(dataset, net, chunk)) for chunk in chunks[1:]]
    batches = map_batches(net, dataset, chunks, net, device=cpu, kept=kept)
    next(batches)  # the first batch is computed, and one too many
    assert kept.nbytes == 0
    for number in range(3):
        next(batches)
        assert [ref() is not None for ref in maps] == [n >= number for n in range(3)]
    batches.close()


def test_maps_belong_to_their_data_set_view_and_places():
    kept, dataset = KeptMaps(limit=2**20), object()
    kept.keep(dataset, VIEW, np.array([0, 1]), torch.ones(2, 1, 1, 1))
    assert kept.find(dataset, VIEW, np.array([1, 0])) is None
    assert kept.find(object(), VIEW, np.array([0, 1])) is None
    assert kept.find(dataset, PlainView(EvalTransform(9)), np.array([0, 1])) is None
    kept.clear()
    assert kept.find(dataset, VIEW, np.array([0, 1])) is None
