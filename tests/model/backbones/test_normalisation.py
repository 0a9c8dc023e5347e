"""The mean and sd that the weights of a backbone were trained with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import transformers

from csr.config.flags import parse_train_flags
from csr.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from csr.model import hub_download
from csr.model.backbones.build import build_backbone
from csr.model.backbones.normalisation import (
    Normalisation,
    find_native_size,
    find_normalisation,
    read_preprocessor,
)
from csr.runtime.errors import InputError
from csr.training.build import with_native_size

HALF = (0.5, 0.5, 0.5)


def of_timm(name, *, pretrained=True, size=160):
    net = build_backbone("timm", name, image_size=size).net
    return find_normalisation("timm", name, net=net, is_pretrained=pretrained)


def written(folder, **content):
    folder.joinpath("preprocessor_config.json").write_text(json.dumps(content))
    return folder / "preprocessor_config.json"


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("test_vit", HALF, HALF),
        ("test_resnet", HALF, HALF),
        ("resnet18", IMAGENET_MEAN, IMAGENET_STD),
        ("mobilevit_xxs", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_pretrained_timm_models_see_what_timm_trained_them_on(name, mean, std):
    found = of_timm(name)
    assert (found.mean, found.std) == (mean, std)
    assert "timm" in found.line


def test_random_weights_take_imagenets():
    assert of_timm("test_vit", pretrained=False) == Normalisation(IMAGENET_MEAN, IMAGENET_STD, "ImageNet")


def test_a_folder_of_transformers_says_it_in_its_preprocessor_config(tmp_path):
    written(tmp_path, image_mean=[0.5307] * 3, image_std=[0.2583] * 3, size={"shortest_edge": 518})
    found = find_normalisation("medmae", str(tmp_path), net=None, is_pretrained=True)
    assert (found.mean, found.std, found.native_size) == ((0.5307,) * 3, (0.2583,) * 3, 518)
    assert "518 px" in found.line


def test_a_folder_without_one_is_told(tmp_path):
    found = find_normalisation("medmae", str(tmp_path), net=None, is_pretrained=True)
    assert found.mean == IMAGENET_MEAN
    assert "has no preprocessor_config.json" in found.line


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    def fetch(*args, **kwargs):
        raise hub_download.Unobtainable("offline")

    monkeypatch.setattr(hub_download, "fetch", fetch)
    found = find_normalisation("medmae", "some/vit", net=None, is_pretrained=True)
    assert found.mean == IMAGENET_MEAN
    assert "no preprocessor_config.json of some/vit could be had" in found.line


def test_maes_weights_stay_with_imagenets():
    for name in ("facebook/vit-mae-base", "weights.pth"):
        found = find_normalisation("medmae", name, net=None, is_pretrained=True)
        assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("content", "mean", "std", "size"),
    [
        ({}, IMAGENET_MEAN, IMAGENET_STD, None),
        ({"do_normalize": False}, (0.0,) * 3, (1.0,) * 3, None),
        ({"image_mean": [0.1], "image_std": [0.2]}, (0.1,) * 3, (0.2,) * 3, None),
        ({"image_mean": HALF, "image_std": HALF, "size": 224}, HALF, HALF, 224),
        ({"image_processor_type": "MobileViTImageProcessor"}, (0.0,) * 3, (1.0,) * 3, None),
        (
            {"image_processor_type": "MobileViTImageProcessor", "do_normalize": None},
            *((0.0,) * 3, (1.0,) * 3),
            None,
        ),
        (
            {"image_processor_type": "EfficientNetImageProcessor", "image_mean": [0.5], "image_std": [0.2]},
            *((0.5,) * 3, (0.2**2,) * 3),
            None,
        ),
        (
            {"image_processor_type": "EfficientNetImageProcessor", "include_top": False, "image_std": [0.2]},
            *(None, (0.2,) * 3),
            None,
        ),
        ({"size": {"height": 96, "width": 96}}, IMAGENET_MEAN, IMAGENET_STD, 96),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, *2 * [None], 224),
    ],
)
def test_preprocessor_configs_of_all_versions(tmp_path, content, mean, std, size):
    found = read_preprocessor(written(tmp_path, **content))
    assert (found.mean, found.std) == (mean or IMAGENET_MEAN, std or IMAGENET_STD)
    assert found.native_size == size


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("MobileViTImageProcessor", {"do_resize": False, "do_center_crop": False}),
        ("EfficientNetImageProcessor", {"do_resize": False, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}),
        ("EfficientNetImageProcessor", {"do_resize": False, "include_top": False}),
        ("ViTImageProcessor", {"do_resize": False}),
    ],
)
def test_grey_images_are_normalised_as_transformers_own_processor_does(tmp_path, name, given):
    processor = getattr(transformers, name)(**given)
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    wanted = processor(np.stack([grey] * 3, axis=-1), return_tensors="np")["pixel_values"][0]
    processor.save_pretrained(tmp_path)
    found = read_preprocessor(tmp_path / "preprocessor_config.json")
    mean, std = (np.array(values)[:, None, None] for values in (found.mean, found.std))
    np.testing.assert_allclose((grey[None] / 255 - mean) / std, wanted, atol=1e-5)


def test_the_size_of_the_weights_images_is_known_by_name_or_folder(tmp_path):
    written(tmp_path, size={"shortest_edge": 518})
    assert find_native_size("hf", str(tmp_path)) == 518
    assert find_native_size("timm", "test_vit") == 160
    assert find_native_size("timm", "inception_v3") == 299
    assert find_native_size("medmae", "facebook/vit-mae-base") == 224
    config = parse_train_flags(
        ["--backbone_type", "timm", "--model_name", "test_vit", "--image_size", "auto", "--no_pretrained"]
    )
    assert with_native_size(config).data.image_size == 160


def test_a_size_that_nothing_tells_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="--image_size auto: nothing tells the image size"):
        find_native_size("hf", str(tmp_path))
    with pytest.raises(InputError, match="nothing tells"):
        find_native_size("medmae", "weights.pth")


@pytest.mark.parametrize(
    "content",
    [
        {"image_std": [0.5, 0.0, 0.5]},
        {"image_mean": ["a", 0.0, 0.5]},
        {"image_mean": [0.5, 0.5]},
        {"rescale_factor": 1.0},
        {"do_rescale": False},
    ],
)
def test_what_is_no_normalisation_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="preprocessor_config.json"):
        read_preprocessor(written(tmp_path, **content))
