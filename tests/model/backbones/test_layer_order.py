"""Layers of a backbone from the images on, against the numbering of MAE's fine-tuning and timm's rates."""

from __future__ import annotations

import re

import pytest
import timm
from hf_encoders import FAMILIES, native_side
from timm.optim import param_groups_layer_decay

from csr.model.backbones.build import build_backbone
from csr.model.backbones.layer_order import layer_order, norm_parameters
from csr.model.backbones.vit_architecture import ARCHITECTURE_KEYS

TINY_VIT = dict(zip(ARCHITECTURE_KEYS, (32, 3, 2, 64, 8, 1e-6, "gelu", True), strict=True))


def mae_layer(name, num_layers):
    """MAE's `get_layer_id_for_vit`, from its description: stem 0, blocks from 1, the rest on top."""
    if re.search(
        r"cls_token|mask_token|pos_embed|patch_embed|position_embeddings|^embeddings|dist_token", name
    ):
        return 0
    block = re.search(r"(?:blocks|layers|layer)\.(\d+)\.", name)
    return int(block[1]) + 1 if block else num_layers


def nets():
    yield "timm vit", build_backbone("timm", "vit_tiny_patch16_224", image_size=32).net, 13
    yield "medmae", build_backbone("medmae", "x", image_size=32, architecture=TINY_VIT).net, 4
    for kind in ("dinov2", "dinov2_with_registers", "beit", "vit", "dinov3_vit"):
        architecture = {"model_type": kind, **FAMILIES[kind]}
        size = native_side(kind)
        yield kind, build_backbone("hf", kind, image_size=size, architecture=architecture).net, 3


@pytest.mark.parametrize(
    ("label", "net", "top"), nets(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_vits_are_numbered_as_in_the_fine_tuning_of_mae(label, net, top):
    order = layer_order(net)
    assert order.top == top
    for name, number in order.layer.items():
        assert number == mae_layer(name, top), name
    assert set(order.layer) == {name for name, _ in net.named_parameters()}


def test_rates_are_those_of_timm_for_a_vit_with_a_head():
    decay = 0.7
    whole = timm.create_model("test_vit", num_classes=3)
    names = {id(p): name for name, p in whole.named_parameters()}
    expected = {
        names[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(whole, layer_decay=decay)
        for p in group["params"]
    }
    order = layer_order(build_backbone("timm", "test_vit", image_size=160).net)
    for name, number in order.layer.items():
        if name.startswith("norm."):  # timm counts it to the last block, MAE to the head
            continue
        assert decay ** (order.top - number) == pytest.approx(expected[name]), name


def test_every_residual_block_is_a_layer_and_the_last_one_is_below_the_head():
    order = layer_order(build_backbone("timm", "resnet18", image_size=64).net)
    assert order.layer["conv1.weight"] == 0
    blocks = [
        order.layer[f"layer{stage}.{block}.conv1.weight"] for stage in range(1, 5) for block in range(2)
    ]
    assert blocks == list(range(1, 9))
    assert order.top == 9


def test_stages_of_blocks_are_numbered_through():
    architecture = {"model_type": "convnext", **FAMILIES["convnext"], "depths": [1, 2, 1, 1]}
    order = layer_order(build_backbone("hf", "x", image_size=64, architecture=architecture).net)
    blocks = {n: v for n, v in order.layer.items() if "dwconv.weight" in n or "depthwise" in n}
    assert len(blocks) == 5
    assert list(blocks.values()) == sorted(set(blocks.values()))


def test_the_last_blocks_are_trained_with_what_follows_them():
    net = build_backbone("timm", "vit_tiny_patch16_224", image_size=32).net
    last = layer_order(net).last(2)
    assert last == {
        n for n, _ in net.named_parameters() if n.startswith(("blocks.10.", "blocks.11.", "norm."))
    }
    assert layer_order(net).last(1000) == {n for n, _ in net.named_parameters()}


def test_norms_are_found_by_their_kind():
    assert norm_parameters(build_backbone("timm", "resnet18", image_size=64).net) >= {
        "bn1.weight",
        "bn1.bias",
    }
    net = build_backbone("timm", "vit_tiny_patch16_224", image_size=32).net
    assert norm_parameters(net) == {n for n, _ in net.named_parameters() if "norm" in n}
