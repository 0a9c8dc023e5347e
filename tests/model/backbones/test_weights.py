"""Pretrained weights load completely or are refused: MAE naming, both transformers namings, timm, offline."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from mae_weights import (
    LAYERS,
    PATCH,
    WIDTH,
    check_features,
    images,
    loaded,
    mae_file,
    mae_state,
)
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from csr.model import CSR
from csr.model.backbones.build import build_backbone
from csr.model.backbones.positions import resize_positions
from csr.model.backbones.vit_keys import canonical_key
from csr.model.backbones.weights import fetch_architecture, load_backbone_weights
from csr.runtime.errors import InputError


def hf4_name(key: str) -> str:
    """A weight's name in a ViTMAE file of transformers 4, from its common name."""
    swaps = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    key = canonical_key(key).replace("layers.", "encoder.layer.")
    for new, old in swaps.items():
        key = key.replace(new, old)
    return f"vit.{key}"


def hf4_state() -> dict[str, torch.Tensor]:
    state = {}
    for key, value in mae_state().items():
        if key.startswith("decoder") or key == "mask_token":
            continue
        if ".qkv." in key:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[hf4_name(key.replace("qkv", letter))] = part.contiguous()
        else:
            state[hf4_name(key)] = value
    return {**state, "decoder.mask_token": torch.zeros(1, 1, 16)}


@pytest.mark.parametrize(("name", "wrap"), [("a.pth", True), ("a.pth", False), ("a.safetensors", False)])
def test_a_file_in_mae_naming_gives_the_features_of_the_mae_encoder(tmp_path, name, wrap):
    backbone, report = loaded(mae_file(tmp_path, name=name, wrap=wrap))
    check_features(backbone, mae_state())
    assert report.matched == len(backbone.net.state_dict()) == 6 + 16 * LAYERS
    assert set(report.ignored) >= {"decoder_embed.weight", "embeddings.mask_token"} and not report.resized
    assert str(tmp_path) in report.lines[0] and "all 38 tensors" in report.lines[0]


@pytest.mark.parametrize("weights_name", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_gives_the_same_features(tmp_path, weights_name):
    assert "vit.encoder.layer.0.attention.attention.query.weight" in hf4_state()
    config = {
        "model_type": "vit_mae",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 1,
        "intermediate_size": 64,
        "patch_size": PATCH,
        "image_size": 32,
        "layer_norm_eps": 1e-6,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    mae_file(tmp_path, state=hf4_state(), name=weights_name, wrap=False)
    backbone, report = loaded(tmp_path)
    check_features(backbone, mae_state())
    assert report.ignored == ("decoder.mask_token",)


def test_what_the_installed_transformers_saves_loads_and_gives_its_own_features(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    decoder = {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16,
    }
    config = ViTMAEConfig(**sizes, **decoder, patch_size=8, image_size=32, mask_ratio=0.0)
    original = ViTMAEForPreTraining(config).eval()
    original.save_pretrained(tmp_path)
    backbone, _ = loaded(tmp_path)
    in_order = torch.arange(16.0).expand(2, -1) / 16  # the noise that would shuffle patches
    tokens = original.vit(images(), noise=in_order).last_hidden_state[:, 1:]
    torch.testing.assert_close(backbone(images()).flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=1e-5)


def test_positions_are_interpolated_for_another_image_size_and_the_report_says_so(tmp_path):
    path = mae_file(tmp_path)
    model = CSR(3, 2, 2, model_name=str(path), image_size=48, embedding_dim=8).eval()
    report = load_backbone_weights(model.backbone, backbone_type="medmae", model_name=str(path))
    state = mae_state()
    grid = state["pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    resized = F.interpolate(grid, size=(6, 6), mode="bicubic").flatten(2).transpose(1, 2)
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], resized], dim=1)
    check_features(model.backbone, state, size=48)
    assert "(1, 17, 32) -> (1, 37, 32)" in report.resized[0] and report.resized[0] in "".join(report.lines)


def test_positions_that_form_no_square_are_refused():
    with pytest.raises(InputError, match="no square"):
        resize_positions(torch.zeros(1, 1 + 12, 4), num_prefix=1, grid=(4, 4))


def without(key: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in mae_state().items() if k != key}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("blocks.1.norm2.bias"), "37 of 38 tensors match; not in the file: layers.1.layernorm_after"),
        (without("pos_embed"), "not in the file: embeddings.position_embeddings"),
        ({**mae_state(), "blocks.0.gamma_1": torch.ones(32)}, "not in the model: blocks.0.gamma_1"),
        ({**mae_state(), "norm.weight": torch.ones(31)}, r"layernorm.weight is \(31,\), not \(32,\)"),
        ({**mae_state(), "patch_embed.proj.weight": torch.ones(32, 1, 8, 8)}, "1, 8, 8"),
        ({"fc.weight": torch.ones(2, 2)}, "not those of a ViT encoder"),
    ],
)
def test_a_file_that_does_not_match_completely_is_refused_and_changes_nothing(tmp_path, state, message):
    architecture = fetch_architecture("medmae", str(mae_file(tmp_path, name="whole.pth")))
    backbone = build_backbone("medmae", "whole", image_size=32, architecture=architecture)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    path = mae_file(tmp_path, state=state)
    with pytest.raises(InputError, match=message) as caught:
        fetch_architecture("medmae", str(path))
        load_backbone_weights(backbone, backbone_type="medmae", model_name=str(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


class Runs:
    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": mae_state(), "extra": Runs()}, "bad.pth")
    Path("old.pth").write_bytes(pickle.dumps({"model": Runs()}))
    for name in ("bad.pth", "old.pth"):
        with pytest.raises(InputError, match=f"{name}: refused") as caught:
            build_backbone("medmae", name, image_size=32)
        assert "\n" not in str(caught.value)
    assert not Path("was_run").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "empty.pth", "gone.pth", "text.pth"])
def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    if name.startswith("cut"):
        mae_file(tmp_path, name=name, wrap=False)
        path.write_bytes(path.read_bytes()[:2000])
    elif name == "empty.pth":
        path.touch()
    elif name == "text.pth":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(InputError, match=name) as caught:
        build_backbone("medmae", str(path), image_size=32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ('{"model_type": "bert"}', "'bert'"),
        ('{"model_type": "vit"}', "hidden_size"),
        ("[]", "None"),
    ],
)
def test_a_folder_whose_config_tells_no_vit_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        build_backbone("medmae", str(tmp_path), image_size=32)


def test_a_folder_without_config_or_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        build_backbone("medmae", str(tmp_path), image_size=32)
    backbone = build_backbone("medmae", str(mae_file(tmp_path)), image_size=32)
    with pytest.raises(InputError, match="holds neither model.safetensors nor .* nor pytorch_model.bin"):
        load_backbone_weights(backbone, backbone_type="medmae", model_name=str(tmp_path))


def test_offline_the_error_names_the_flags_that_take_local_files(tmp_path):
    backbone = build_backbone("medmae", str(mae_file(tmp_path)), image_size=32)
    flags = "--model_name FOLDER.*--backbone_weights FILE.*--no_pretrained"
    with pytest.raises(InputError, match=flags) as caught:
        load_backbone_weights(backbone, backbone_type="medmae", model_name="facebook/vit-mae-base")
    assert "\n" not in str(caught.value) and "facebook/vit-mae-base" in str(caught.value)
    resnet = build_backbone("resnet50", "resnet50", image_size=64)
    with pytest.raises(InputError, match="timm/resnet50.*--backbone_weights FILE.*--no_pretrained") as caught:
        load_backbone_weights(resnet, backbone_type="resnet50", model_name="resnet50")
    assert "FOLDER" not in str(caught.value), "a folder is no name of a timm model"
    with pytest.raises(InputError, match="config.json"):
        fetch_architecture("medmae", "someone/unknown")


@pytest.mark.parametrize(
    "failure",
    [
        OfflineModeIsEnabled("offline"),
        LocalEntryNotFoundError("not cached\nmore"),
        ConnectionError("no route"),
        TimeoutError(),
    ],
)
def test_every_way_in_which_the_hub_fails_is_one_line(tmp_path, monkeypatch, failure):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    backbone = build_backbone("medmae", str(mae_file(tmp_path)), image_size=32)
    with pytest.raises(InputError, match=type(failure).__name__) as caught:
        load_backbone_weights(backbone, backbone_type="medmae", model_name="facebook/vit-mae-base")
    assert "\n" not in str(caught.value)


def test_a_hub_repository_that_has_only_a_bin_file_is_used(tmp_path, monkeypatch):
    asked = []
    path = mae_file(tmp_path, state=hf4_state(), name="pytorch_model.bin", wrap=False)

    def download(repo_id, name, revision=None):
        asked.append(name)
        if name != path.name:
            raise huggingface_hub.errors.EntryNotFoundError("404")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    backbone = build_backbone("medmae", str(mae_file(tmp_path)), image_size=32)
    load_backbone_weights(backbone, backbone_type="medmae", model_name="facebook/vit-mae-base")
    assert asked == ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
    check_features(backbone.eval(), mae_state())


def test_a_weights_file_beside_a_model_name_tells_the_sizes(tmp_path):
    path = mae_file(tmp_path)
    found = fetch_architecture("medmae", "facebook/vit-mae-base", weights_file=path)
    assert (found["hidden_size"], found["num_hidden_layers"], found["patch_size"]) == (WIDTH, LAYERS, PATCH)
    assert fetch_architecture("timm", "resnet18", weights_file=path) is None
    backbone = build_backbone("medmae", "facebook/vit-mae-base", image_size=32, architecture=found)
    load_backbone_weights(
        backbone, backbone_type="medmae", model_name="facebook/vit-mae-base", weights_file=path
    )


def test_a_state_dict_with_the_names_of_another_transformers_version_loads(tmp_path):
    backbone, _ = loaded(mae_file(tmp_path))
    old = {}
    for key, value in backbone.state_dict().items():
        old["net." + hf4_name(key.removeprefix("net.")).removeprefix("vit.")] = value
    assert set(old) != set(backbone.state_dict())
    fresh = build_backbone("medmae", str(tmp_path / "mae.pth"), image_size=32).eval()
    fresh.load_state_dict(old)
    torch.testing.assert_close(fresh(images()), backbone(images()), atol=0, rtol=0)


def timm_file(folder: Path, name: str, **options) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(2)
    net = timm.create_model(name, num_classes=5, **options)
    path = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    return path, net.eval()


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit", "test_vit3"]
)
def test_timm_files_load_with_their_classifier_left_out(tmp_path, name):
    options = {"img_size": 64} if "vit" in name else {}
    path, net = timm_file(tmp_path, name, **options)
    backbone = build_backbone("timm", name, image_size=64).eval()
    report = load_backbone_weights(backbone, backbone_type="timm", model_name=name, weights_file=path)
    assert report.matched == len(backbone.net.state_dict())
    pooling_and_classifier = ("head.", "fc.", "classifier.", "attn_pool.")
    assert report.ignored and all(key.startswith(pooling_and_classifier) for key in report.ignored)
    weights = net.state_dict()
    for key, value in backbone.net.state_dict().items():
        source = key.replace("norm.", "fc_norm.") if report.renamed and key.startswith("norm.") else key
        torch.testing.assert_close(value, weights[source], atol=0, rtol=0)


def test_timm_positions_are_interpolated_for_another_image_size(tmp_path):
    path, _ = timm_file(tmp_path, "test_vit", img_size=64)
    backbone = build_backbone("timm", "test_vit", image_size=96)
    report = load_backbone_weights(backbone, backbone_type="timm", model_name="test_vit", weights_file=path)
    assert report.resized == ("pos_embed (1, 17, 64) -> (1, 37, 64)",)


def test_a_norm_behind_the_pooling_becomes_the_norm_of_the_map(tmp_path):
    path, net = timm_file(tmp_path, "test_vit", img_size=64, global_pool="avg")
    backbone = build_backbone("timm", "test_vit", image_size=64)
    report = load_backbone_weights(backbone, backbone_type="timm", model_name="test_vit", weights_file=path)
    assert len(report.renamed) == 1 and report.renamed[0] in report.lines[-1]
    torch.testing.assert_close(backbone.net.norm.weight, net.fc_norm.weight)


@pytest.mark.parametrize("broken", ["missing", "extra", "other"])
def test_timm_files_that_do_not_match_completely_are_refused(tmp_path, broken):
    path, net = timm_file(tmp_path, "test_resnet")
    state = dict(net.state_dict())
    if broken == "missing":
        del state["layer1.0.conv1.weight"]
    elif broken == "extra":
        state["layer9.weight"] = torch.ones(2)
    else:
        state = {"something.weight": torch.ones(2)}
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    backbone = build_backbone("timm", "test_resnet", image_size=64)
    with pytest.raises(InputError, match="does not fit the backbone") as caught:
        load_backbone_weights(backbone, backbone_type="timm", model_name="test_resnet", weights_file=path)
    assert "\n" not in str(caught.value)


def test_a_resnet_file_may_be_given_as_the_model_name(tmp_path):
    net = timm.create_model("resnet50", num_classes=2)
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    name = str(tmp_path / "mine.pth")
    backbone = build_backbone("resnet50", name, image_size=64)
    load_backbone_weights(backbone, backbone_type="resnet50", model_name=name)
    torch.testing.assert_close(backbone.net.conv1.weight, net.conv1.weight)
