"""`--backbone_type hf`: every family's map is transformers' own last hidden state, at the right places."""

from __future__ import annotations

import json

import pytest
import torch
from hf_encoders import FAMILIES, VIT, change_config, encoder, native_side, saved, shake
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    Dinov2ForImageClassification,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

from csr.model import CSR
from csr.model.backbones.build import build_backbone
from csr.model.backbones.hf.architecture import ENCODERS, hf_architecture_problem
from csr.model.backbones.hf.backbone import patches_of
from csr.model.backbones.weights import fetch_architecture, load_backbone_weights
from csr.runtime.errors import InputError

CONVOLUTIONS = (
    "convnext",
    "convnextv2",
    "resnet",
    "regnet",
    "bit",
    "poolformer",
    "dinov3_convnext",
    "cvt",
    "swiftformer",
    "sam_vision_model",  # its neck
)
# so deep for a small image that each cell sees all of it: the order of their cells is transformers' own
FAR_SIGHTED = ("mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "efficientnet")
ONE_SIZE = ("aimv2_vision_model", "pvt", "sam_vision_model")
SPECIAL = ("siglip2_vision_model", "vit_mae")  # take more than pixels


def build(folder, size):
    architecture = fetch_architecture("hf", str(folder))
    return build_backbone("hf", str(folder), image_size=size, architecture=architecture).eval()


def filled(folder, size, **more):
    backbone = build(folder, size)
    report = load_backbone_weights(backbone, backbone_type="hf", model_name=str(folder), **more)
    return backbone, report


def images(size, number=2):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


def as_map(hidden, rows, columns):
    if hidden.ndim == 4:
        return hidden
    return hidden[:, -rows * columns :].transpose(1, 2).reshape(len(hidden), -1, rows, columns)


@pytest.mark.parametrize("kind", [k for k in FAMILIES if k not in SPECIAL])
def test_the_map_is_transformers_own_last_hidden_state(kind, tmp_path):
    saved(kind, tmp_path)
    size = native_side(kind)
    own = AutoModel.from_pretrained(tmp_path).eval()
    backbone, report = filled(tmp_path, size)
    with torch.no_grad():
        expected, got = own(images(size)).last_hidden_state, backbone(images(size))
    assert all(key.startswith("head.") for key in report.ignored)
    torch.testing.assert_close(got, as_map(expected, *backbone.map_size), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", [k for k in FAMILIES if k not in FAR_SIGHTED])
def test_a_bright_square_moves_the_map_where_it_is(kind):
    size = (4 if kind in CONVOLUTIONS else 2) * native_side(kind)
    native = native_side(kind) if kind in ONE_SIZE else size
    reach = 1 if kind in CONVOLUTIONS else 0  # cells that the last convolutions look over
    architecture = {"model_type": kind, **FAMILIES[kind]}
    backbone = build_backbone("hf", kind, image_size=native, architecture=architecture).eval()
    shake(backbone.net)
    for buffer in (b for n, b in backbone.net.named_buffers() if "running" in n):
        buffer.fill_(1.0)
    rows, columns = backbone.map_size
    assert rows == columns
    plain = 0.1 * images(native, 1)
    with torch.no_grad():
        for row, column in ((0, columns - 1), (rows - 1, 0)):
            side = native // rows
            there = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            bright = plain.clone()
            bright[:, :, there[0], there[1]] += 3.0
            change = (backbone(bright) - backbone(plain)).norm(dim=1)[0]
            found = divmod(int(change.argmax()), columns)
            assert max(abs(found[0] - row), abs(found[1] - column)) <= reach, change


def test_every_family_that_is_named_is_tried():
    assert set(FAMILIES) == set(ENCODERS)


def test_a_masked_autoencoder_masks_nothing_and_keeps_the_order(tmp_path):
    saved("vit_mae", tmp_path)
    backbone, _ = filled(tmp_path, 64)
    plain = AutoModel.from_config(ViTConfig(**VIT), add_pooling_layer=False).eval()
    plain.load_state_dict(backbone.net.state_dict())
    with torch.no_grad():
        got, again = backbone(images(64)), backbone(images(64))
        expected = plain(images(64)).last_hidden_state
    assert torch.equal(got, again)
    torch.testing.assert_close(got, as_map(expected, 4, 4), atol=1e-6, rtol=1e-6)


def test_siglip_2s_patches_are_those_of_its_own_processor():
    pixels = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    processor = Siglip2ImageProcessor(
        do_resize=False, do_rescale=False, do_normalize=False, patch_size=16, max_num_patches=24
    )
    expected = processor(pixels, return_tensors="pt")
    got = patches_of(pixels[None].float(), 16)
    torch.testing.assert_close(got["pixel_values"], expected["pixel_values"].float())
    assert got["spatial_shapes"].tolist() == [[4, 6]]


def test_positions_are_interpolated_as_transformers_does(tmp_path):
    own = saved("vit", tmp_path)
    backbone, _ = filled(tmp_path, 96)
    with torch.no_grad():
        expected = own(images(96), interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(backbone(images(96)), as_map(expected, 6, 6), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("composite", "config", "kind"),
    [(CLIPModel, CLIPConfig, "clip_vision_model"), (SiglipModel, SiglipConfig, "siglip_vision_model")],
)
def test_of_two_towers_the_images_is_taken(composite, config, kind, tmp_path):
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    both = composite(config(vision_config=VIT, text_config={**text, "vocab_size": 20}))
    shake(both).save_pretrained(tmp_path)
    backbone, report = filled(tmp_path, 64)
    assert backbone.architecture["model_type"] == kind
    with torch.no_grad():
        expected = both.eval().vision_model(images(64)).last_hidden_state
        torch.testing.assert_close(backbone(images(64)), as_map(expected, 4, 4), atol=1e-6, rtol=1e-6)
    assert any("text_model" in key for key in report.ignored)


def test_a_classifier_and_a_pooler_in_the_file_are_left_and_told(tmp_path):
    shake(ViTForImageClassification(ViTConfig(**VIT))).save_pretrained(tmp_path)
    _, report = filled(tmp_path, 64)
    assert set(report.ignored) == {"classifier.weight", "classifier.bias"}


def test_rad_dinos_layout_is_read_as_it_is(tmp_path):
    """RAD-DINO: a Dinov2Model of 518 px without a head, mean and sd of its own, one safetensors file."""
    own = saved("dinov2", tmp_path, image_size=518)
    processor = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3, "size": {"shortest_edge": 518}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    backbone, report = filled(tmp_path, 112)
    assert backbone.map_size == (8, 8)
    assert report.matched == len(backbone.net.state_dict())
    with torch.no_grad():
        expected = own(images(112)).last_hidden_state
        torch.testing.assert_close(backbone(images(112)), as_map(expected, 8, 8), atol=1e-6, rtol=1e-6)


def test_names_of_transformers_4_are_understood(tmp_path):
    own = saved("vit", tmp_path)
    swaps = {
        "layers.": "encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    old = {}
    for key, value in own.state_dict().items():
        for new, before in swaps.items():
            key = key.replace(new, before)
        old[f"vit.{key}"] = value.clone()
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    backbone, _ = filled(tmp_path, 64)
    with torch.no_grad():
        expected = own(images(64)).last_hidden_state
        torch.testing.assert_close(backbone(images(64)), as_map(expected, 4, 4), atol=1e-6, rtol=1e-6)


def test_a_lightning_checkpoint_of_an_encoder_is_taken(tmp_path):
    folder = tmp_path / "folder"
    own = saved("dinov2", folder)
    state = {f"model.backbone.{key}": value for key, value in own.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    backbone, report = filled(folder, 56, weights_file=tmp_path / "last.ckpt")
    assert any("without 'model.backbone.'" in line for line in report.lines)
    with torch.no_grad():
        expected = own(images(56)).last_hidden_state
        torch.testing.assert_close(backbone(images(56)), as_map(expected, 4, 4), atol=1e-6, rtol=1e-6)


def sharded(folder):
    own = saved("vit", folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return own


def test_sharded_files_are_one(tmp_path):
    own = sharded(tmp_path)
    backbone, _ = filled(tmp_path, 64)
    with torch.no_grad():
        expected = own(images(64)).last_hidden_state
        torch.testing.assert_close(backbone(images(64)), as_map(expected, 4, 4), atol=1e-6, rtol=1e-6)


def test_a_mae_folder_in_several_parts_is_read_as_medmae_too(tmp_path):
    sharded(tmp_path)
    backbone = build_backbone(
        "medmae", str(tmp_path), image_size=64, architecture=fetch_architecture("medmae", str(tmp_path))
    )
    load_backbone_weights(backbone, backbone_type="medmae", model_name=str(tmp_path))
    other, _ = filled(tmp_path, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images(64)), other(images(64)), atol=1e-5, rtol=1e-5)


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match="names model-2.safetensors, which is not beside it"):
        filled(tmp_path, 64)


def test_an_index_that_leaves_its_folder_is_refused(tmp_path):
    folder = tmp_path / "folder"
    saved("vit", folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="no name of a file beside it"):
        filled(folder, 64)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "nan"])
def test_weights_that_are_not_whole_change_nothing(change, tmp_path):
    saved("dinov2", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    key = "encoder.layer.1.mlp.fc1.weight"
    key = key if key in state else next(k for k in state if k.endswith("1.mlp.fc1.weight"))
    if change == "missing":
        del state[key]
    elif change == "unknown":
        state["encoder.gate"] = torch.zeros(3)
    elif change == "shape":
        state[key] = state[key][:-1].clone()
    else:
        state[key][0, 0] = float("nan")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    backbone = build(tmp_path, 56)
    before = {name: value.clone() for name, value in backbone.net.state_dict().items()}
    with pytest.raises(InputError):
        load_backbone_weights(backbone, backbone_type="hf", model_name=str(tmp_path))
    assert all(torch.equal(before[name], value) for name, value in backbone.net.state_dict().items())


def test_loading_draws_no_random_number(tmp_path):
    saved("dinov2", tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    backbone = build(tmp_path, 56)
    torch.manual_seed(5)
    load_backbone_weights(backbone, backbone_type="hf", model_name=str(tmp_path))
    assert torch.equal(torch.rand(1), expected)


def test_nothing_is_random_in_training(tmp_path):
    saved("beit", tmp_path, drop_path_rate=0.9, hidden_dropout_prob=0.5)
    backbone = build(tmp_path, 64).train()
    assert torch.equal(backbone(images(64)), backbone(images(64)))


# what others write into a config.json


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "no image encoder that csr takes"),
        ({"model_type": "timm_wrapper"}, "--backbone_type timm"),
        ({"model_type": None}, "no image encoder"),
        ({"num_hidden_layers": 10**6}, "at most"),
        ({"num_hidden_layers": 600}, "600 layers"),
        ({"num_channels": 1}, "csr's images have 3"),
        ({"patch_size": 0}, "patch_size"),
        ({"hidden_act": "x" * 100}, "longer than"),
        ({"hidden_act": "no_such"}, "transformers cannot build it|takes it for none"),
    ],
)
def test_configurations_of_no_encoder_are_refused(changes, message, tmp_path):
    saved("vit", tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        build(tmp_path, 64)


def test_code_that_a_configuration_names_is_left(tmp_path):
    saved("vit", tmp_path)
    change_config(
        tmp_path,
        auto_map={"AutoModel": "evil.Model"},
        _attn_implementation="hub/kernel",
        attn_implementation="x/y",
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    backbone = build(tmp_path, 64)
    assert not {"auto_map", "attn_implementation", "_attn_implementation"} & set(backbone.architecture)


def test_a_description_with_other_values_is_refused():
    assert hf_architecture_problem({"model_type": "vit", "auto_map": {}}) == "vit has no auto_map"
    assert hf_architecture_problem({"model_type": "vit", "hidden_size": float("nan")}) is not None
    assert hf_architecture_problem({"model_type": "convnext", "depths": [[1] * 65]}) is None
    assert "more than 64" in hf_architecture_problem({"model_type": "convnext", "depths": [1] * 65})


def test_cut_patches_are_refused(tmp_path):
    saved("dinov2", tmp_path)
    with pytest.raises(InputError, match="cuts 14 px patches; take 84 or 98"):
        build(tmp_path, 96)


def test_a_file_is_no_architecture():
    with pytest.raises(InputError, match="give the folder with its config.json"):
        fetch_architecture("hf", "weights.pth")


# a whole model of it


def test_a_model_is_shared_and_read_again_without_the_folder(tmp_path):
    saved("dinov2", tmp_path / "encoder")
    architecture = fetch_architecture("hf", str(tmp_path / "encoder"))
    model = CSR(
        3, 2, 2, backbone_type="hf", model_name="some/encoder", image_size=56, architecture=architecture
    ).eval()
    model.save_pretrained(tmp_path / "shared")
    again = CSR.from_pretrained(tmp_path / "shared")
    with torch.no_grad():
        assert torch.equal(again(images(56)).logits, model(images(56)).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 200, "hidden_size": 4096}, "values"),
        ({"model_type": "no_such"}, "model_type"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "has no auto_map"),
    ],
)
def test_a_hostile_shared_model_costs_an_error(changes, message, tmp_path):
    architecture = {"model_type": "vit", **VIT}
    model = CSR(3, 2, 2, backbone_type="hf", model_name="x", image_size=64, architecture=architecture)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"]["architecture"].update(changes)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        CSR.from_pretrained(tmp_path)


def test_recomputing_activations_changes_no_gradient(tmp_path):
    architecture = {"model_type": "dinov2", **FAMILIES["dinov2"]}
    backbone = build_backbone("hf", "x", image_size=56, architecture=architecture)
    backbone(images(56)).square().sum().backward()
    expected = [p.grad.clone() for p in backbone.parameters() if p.grad is not None]
    backbone.zero_grad()
    backbone.recompute_activations()
    backbone(images(56)).square().sum().backward()
    for got, grad in zip(
        (p.grad for p in backbone.parameters() if p.grad is not None), expected, strict=True
    ):
        torch.testing.assert_close(got, grad)


def test_the_encoder_of_the_classifier_is_what_transformers_has(tmp_path):
    config = AutoConfig.for_model("dinov2", **FAMILIES["dinov2"])
    whole = shake(Dinov2ForImageClassification(config)).eval()
    whole.save_pretrained(tmp_path)
    backbone, _ = filled(tmp_path, 56)
    with torch.no_grad():
        expected = whole.dinov2(images(56)).last_hidden_state
        torch.testing.assert_close(backbone(images(56)), as_map(expected, 4, 4), atol=1e-6, rtol=1e-6)
    assert encoder("dinov2").config.model_type == "dinov2"
