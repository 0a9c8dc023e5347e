"""Backbones that take images of several sides: positions and windows as timm has them, or a refusal."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hf_encoders import FAMILIES
from torch import nn

from csr.model.backbones.base import Backbone
from csr.model.backbones.build import build_backbone
from csr.runtime.errors import InputError


@pytest.mark.parametrize(
    "name, size, more",
    [
        ("test_vit", 64, {"dynamic_img_size": True}),
        ("swin_tiny_patch4_window7_224", 224, {"strict_img_size": False}),
        ("test_resnet", 96, {}),
    ],
)
def test_smaller_images_give_what_timm_gives_for_them(name, size, more):
    torch.manual_seed(0)
    backbone = build_backbone("timm", name, image_size=size).eval()
    side = size - backbone.stride
    backbone.take_sides([side, size])
    given = {"img_size": size, **more} if more else {}
    own = timm.create_model(name, num_classes=0, global_pool="", **given).eval()
    own.load_state_dict(backbone.net.state_dict())
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, got = own(image), backbone(image)
    if expected.ndim == 3:
        expected = expected[:, 1:].transpose(1, 2).unflatten(2, got.shape[2:])
    elif got.shape != expected.shape:
        expected = expected.permute(0, 3, 1, 2)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert backbone.map_sizes[side] == tuple(got.shape[2:])


@pytest.mark.parametrize("kind, name", [("timm", "test_vit"), ("timm", "test_resnet"), ("medmae", "tiny")])
def test_full_size_gives_the_same_bits_and_no_mode_changes(kind, name):
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }
    backbone = build_backbone(kind, name, image_size=96, architecture=sizes if kind == "medmae" else None)
    image, state = torch.randn(2, 3, 96, 96), {k: v.clone() for k, v in backbone.state_dict().items()}
    before = backbone.eval()(image)
    backbone.train().take_sides([64])
    assert backbone.training
    assert torch.equal(backbone.eval()(image), before)
    assert [k for k, v in backbone.state_dict().items() if not torch.equal(v, state[k])] == []
    assert backbone.map_sizes == {
        96: backbone.map_size,
        64: (round(64 / backbone.stride), round(64 / backbone.stride)),
    }


class Shrinking(nn.Module):
    """Smooths in windows that never grow again once an image was smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.window = nn.Parameter(torch.ones(1)), 99

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        self.window = min(self.window, image_B3HW.shape[-1] // 8)
        return nn.functional.avg_pool2d(self.weight * image_B3HW, self.window)


class ShrinkingBackbone(Backbone):
    def maps(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return self.net(images_B3HW)


def test_a_network_that_smaller_images_change_for_good_is_refused():
    given: dict[str, Any] = {"backbone_type": "timm", "model_name": "x", "image_size": 64}
    backbone = ShrinkingBackbone(Shrinking(), architecture=None, **given)
    with pytest.raises(InputError, match="--progressive: timm 'x' .* another network after smaller images"):
        backbone.take_sides([32])


@pytest.mark.parametrize(
    "kind, side, refused", [("swin", 32, True), ("swin", 64, False), ("beit", 96, False)]
)
def test_encoders_of_transformers_take_smaller_images_or_say_why_not(kind, side, refused):
    architecture = {"model_type": kind, **FAMILIES[kind]}
    backbone = build_backbone("hf", kind, image_size=128, architecture=architecture)
    if not refused:
        backbone.take_sides([side])
        assert backbone.map_sizes[side] == (side // 16, side // 16)
        return
    with pytest.raises(InputError, match=f"--progressive: hf 'swin' .* does not take images of {side} px"):
        backbone.take_sides([side])
