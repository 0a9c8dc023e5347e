"""Weights as people have them: wrapped, prefixed, with plain values beside them, fine-tuned, of DINOv2."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from mae_weights import check_features, images, loaded, mae_features, mae_state

from csr.model.backbones.build import build_backbone
from csr.model.backbones.weights import LoadReport, fetch_architecture, load_backbone_weights
from csr.runtime.errors import InputError

NAME = "test_resnet"


def resnet_state(seed: int = 0, name: str = NAME) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(timm.create_model(name, num_classes=3).state_dict())


def load(path: Path, name: str = NAME, size: int = 64) -> tuple[Any, LoadReport]:
    backbone = build_backbone("timm", name, image_size=size).eval()
    return backbone, load_backbone_weights(backbone, backbone_type="timm", model_name=name, weights_file=path)


def check_filled(backbone: Any, state: dict[str, torch.Tensor]) -> None:
    for key, value in backbone.net.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    "prefix",
    [
        "model.",
        "net.",
        "encoder.",
        "_orig_mod.",
        "module._orig_mod.",
        "model.backbone.",
        "_forward_module.model.",
    ],
)
def test_a_prefix_on_every_key_is_taken_off_and_reported(tmp_path, prefix):
    state = resnet_state()
    lightning = {"epoch": 3, "hyper_parameters": {"lr": 1e-3}, "callbacks": {}, "loops": {}}
    keys = {f"{prefix}{key}": value for key, value in state.items()}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {**keys, "loss.weight": torch.ones(3)}, **lightning}, path)
    backbone, report = load(path)
    check_filled(backbone, state)
    assert f"  all keys without {prefix!r}" in report.lines
    assert "loss.weight" in report.ignored


@pytest.mark.parametrize(
    "wrapper", ["teacher", "net", "model_state_dict", "target_encoder", "checkpoint.model"]
)
def test_the_one_dict_that_fits_is_taken_whatever_its_name(tmp_path, wrapper):
    state = resnet_state()
    content: Any = state
    for word in reversed(wrapper.split(".")):
        content = {word: content, "epoch": 1}
    torch.save({**content, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, tmp_path / "a.pth.tar")
    backbone, _ = load(tmp_path / "a.pth.tar")
    check_filled(backbone, state)


def test_a_dict_of_another_network_is_passed_over(tmp_path):
    state = resnet_state()
    torch.save({"model": resnet_state(name="resnet10t"), "model_ema": state}, tmp_path / "two.pth")
    backbone, _ = load(tmp_path / "two.pth")
    check_filled(backbone, state)


def test_of_two_networks_that_fit_none_is_guessed(tmp_path):
    torch.save({"teacher": resnet_state(0), "student": resnet_state(1)}, tmp_path / "two.pth")
    with pytest.raises(
        InputError, match="two.pth: 'teacher' and 'student' both fit the backbone; save the one"
    ):
        load(tmp_path / "two.pth")
    both = {
        **{f"q.{k}": v for k, v in resnet_state(0).items()},
        **{f"k.{k}": v for k, v in resnet_state(1).items()},
    }
    torch.save(both, tmp_path / "moco.pth")
    with pytest.raises(InputError, match=r"keys q\.\* and keys k\.\* both fit"):
        load(tmp_path / "moco.pth")


def test_the_same_network_twice_is_no_question(tmp_path):
    state = resnet_state()
    torch.save({"teacher": state, "student": {k: v.clone() for k, v in state.items()}}, tmp_path / "same.pth")
    check_filled(load(tmp_path / "same.pth")[0], state)


def test_an_average_of_the_weights_beside_them_is_reported(tmp_path):
    state = resnet_state()
    torch.save({"state_dict": state, "state_dict_ema": resnet_state(1)}, tmp_path / "timm.pth.tar")
    backbone, report = load(tmp_path / "timm.pth.tar")
    check_filled(backbone, state)
    assert "  'state_dict' is used; 'state_dict_ema' would fit as well" in report.lines


PLAIN = {
    "scalar": {"best_auc": np.float64(0.81), "epoch": np.int64(3), "is_best": np.bool_(True)},
    "array": {"history": np.arange(5.0), "names": np.array(["a", "b"])},
    "objects": {"history": np.array([None, "a"], dtype=object)},
    "path": {"args": argparse.Namespace(output_dir=pathlib.Path("out"))},
    "collections": {"c": collections.defaultdict(list), "n": collections.Counter("ab")},
    "torch": {"device": torch.device("cuda:0"), "dtype": torch.float16, "size": torch.Size([3])},
    "time": {"saved": datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc)},
}


@pytest.mark.parametrize("numpy_core", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize("beside", PLAIN.values(), ids=PLAIN)
def test_plain_values_beside_the_weights_do_not_matter(tmp_path, beside, numpy_core):
    path = tmp_path / "plain.pth"
    torch.save({**beside, "model": mae_state()}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data.replace(b"cnumpy._core.", f"c{numpy_core}.".encode()))
    backbone, _ = loaded(path)
    check_features(backbone, mae_state())


class Config:
    pass


def test_a_file_with_an_object_of_a_class_names_the_class(tmp_path):
    torch.save({"model": mae_state(), "cfg": Config()}, tmp_path / "cfg.pth")
    with pytest.raises(
        InputError, match=r"cfg\.pth: refused, it also holds an object of [\w.]*Config, which"
    ) as caught:
        loaded(tmp_path / "cfg.pth")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "is a Git LFS pointer, .*git lfs pull",
        ),
        (b"<!DOCTYPE html><html>401 Unauthorized</html>", "is a web page"),
        (b"\n<html><body>Sign in</body></html>", "is a web page"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_a_failed_download_left_is_named(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        load(tmp_path / name)


def test_the_norm_of_a_fine_tuned_mae_is_the_norm_of_the_map(tmp_path):
    state = mae_state()
    tuned = {
        key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: v for key, v in state.items()
    }
    tuned = {**tuned, "head.weight": torch.ones(14, 32), "head.bias": torch.zeros(14)}
    torch.save(
        {"model": tuned, "optimizer": {"state": {}}, "scaler": {"scale": 65536.0}}, tmp_path / "tuned.pth"
    )
    backbone, report = loaded(tmp_path / "tuned.pth")
    check_features(backbone, state)
    assert any("fc_norm" in line for line in report.lines)


def test_heads_that_no_shape_tells_are_reported(tmp_path):
    torch.save(mae_state(), tmp_path / "mae.pth")
    _, report = loaded(tmp_path / "mae.pth")
    assert (
        "  attention heads are assumed to be 1 of 32, no shape tells them: a folder with config.json does"
        in report.lines
    )


def test_a_mae_under_a_prefix_gives_its_features(tmp_path):
    torch.save({"state_dict": {f"net.encoder.{k}": v for k, v in mae_state().items()}}, tmp_path / "mae.ckpt")
    backbone, _ = loaded(tmp_path / "mae.ckpt")
    torch.testing.assert_close(backbone(images()), mae_features(mae_state(), images()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_as_published_gives_the_map_of_timm(tmp_path, registers):
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    net = timm.create_model(name, img_size=70, num_classes=0).eval()
    state = {**net.state_dict(), "mask_token": torch.zeros(1, 384)}
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], dim=1)
    teacher = {f"backbone.{key}": value for key, value in state.items()}
    torch.save(
        {"teacher": {**teacher, "dino_head.last_layer.weight_g": torch.ones(9, 1)}}, tmp_path / "teacher.pth"
    )
    backbone, report = load(tmp_path / "teacher.pth", name, 70)
    assert report.matched == len(backbone.net.state_dict())
    x = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        tokens = net.forward_features(x)[:, net.num_prefix_tokens :]
        expected = tokens.transpose(1, 2).unflatten(2, (5, 5))
        torch.testing.assert_close(backbone(x), expected, atol=1e-4, rtol=1e-4)


def test_what_does_not_match_is_not_counted_as_matching(tmp_path):
    torch.save({f"other.{n}.num_batches_tracked": torch.tensor(0) for n in range(9)}, tmp_path / "none.pth")
    with pytest.raises(InputError, match="0 of [0-9]+ tensors match"):
        load(tmp_path / "none.pth")


def test_heads_of_a_config_are_not_called_assumed(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(mae_state(), folder / "pytorch_model.bin")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 64}
    text = json.dumps({"model_type": "vit_mae", "patch_size": 8, "layer_norm_eps": 1e-6, **sizes})
    (folder / "config.json").write_text(text)
    assert not any("assumed" in line for line in loaded(folder)[1].lines)
    other = tmp_path / "other.pth"
    torch.save(mae_state(), other)
    (folder / "config.json").write_text(text.replace('"intermediate_size": 64', '"intermediate_size": 128'))
    architecture = fetch_architecture("medmae", str(folder), weights_file=other)
    backbone = build_backbone("medmae", str(folder), image_size=32, architecture=architecture)
    report = load_backbone_weights(
        backbone, backbone_type="medmae", model_name=str(folder), weights_file=other
    )
    assert any("assumed" in line for line in report.lines), "the sizes of the folder are of another network"
