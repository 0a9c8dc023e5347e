"""Hostile model folders: shapes, config.json of Hugging Face, exported models, runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import refuse
from mae_weights import HF
from weight_files import ONE

from csr.model import CSR
from csr.model.backbones.weights import fetch_architecture, load_backbone_weights
from csr.model.sharing.loading import load_run

VIT = {
    "patch_embed.proj.weight": torch.zeros(8, 3, 16, 16),
    "blocks.0.mlp.fc1.weight": torch.zeros(32, 8),
    "blocks.0.attn.qkv.weight": torch.zeros(24, 8),
}
VITS: dict[str, dict[str, torch.Tensor]] = {
    "layer 10^9": {**VIT, "blocks.999999999.mlp.fc1.weight": torch.zeros(32, 8)},
    "layer gap": {**VIT, "blocks.5.norm1.weight": torch.zeros(8)},
    "no layers": {"patch_embed.proj.weight": torch.zeros(8, 3, 16, 16)},
    "flat patches": {**VIT, "patch_embed.proj.weight": torch.zeros(8, 3)},
    "scalar mlp": {**VIT, "blocks.0.mlp.fc1.weight": torch.tensor(1.0)},
    "no patches": {**VIT, "patch_embed.proj.weight": torch.zeros(8, 3, 16, 0)},
    "patches of 9,999": {**VIT, "patch_embed.proj.weight": torch.zeros(8, 3, 1, 9999)},
    "no mlp": {k: v for k, v in VIT.items() if "mlp" not in k},
    "empty mlp": {**VIT, "blocks.0.mlp.fc1.weight": torch.zeros(0, 8)},
    "5,000 names": {f"x{n}": ONE for n in range(5_000)},
    "no width": {**VIT, "patch_embed.proj.weight": torch.zeros(0, 3, 16, 16)},
}


@pytest.mark.parametrize("name", VITS)
def test_shapes_that_no_vit_has_are_named(tmp_path, name):
    path = tmp_path / "mae.pth"
    torch.save(VITS[name], path)
    refuse(lambda: fetch_architecture("medmae", str(path)), str(path))


@pytest.mark.parametrize("length", [0, 1, 2, 25])
def test_a_fused_attention_that_is_no_three_is_named(tmp_path, length):
    path = tmp_path / "mae.pth"
    torch.save({**VIT, "blocks.0.attn.qkv.weight": torch.zeros(length, 8)}, path)
    sizes = fetch_architecture("medmae", str(path))
    model = CSR(2, 2, backbone_type="medmae", model_name=str(path), image_size=32, architecture=sizes)
    refuse(
        lambda: load_backbone_weights(model.backbone, backbone_type="medmae", model_name=str(path)), str(path)
    )


HF_VALUES: list[Any] = [
    [],
    3,
    None,
    {},
    {"model_type": "bert"},
    {"model_type": ["vit"]},
    {**HF, "hidden_size": 10**12},
    {**HF, "hidden_size": "8"},
    {**HF, "hidden_size": -8},
    {**HF, "hidden_size": True},
    {**HF, "patch_size": 0},
    {**HF, "patch_size": [16, 16]},
    {**HF, "patch_size": 1.5},
    {**HF, "num_hidden_layers": 10**9},
    {**HF, "num_attention_heads": 0},
    {**HF, "num_attention_heads": None},
    {**HF, "hidden_act": "__import__('os')"},
    {**HF, "hidden_act": ["gelu"]},
    {**HF, "layer_norm_eps": "x"},
    {**HF, "layer_norm_eps": -1.0},
    {**HF, "qkv_bias": "yes"},
    {**HF, "intermediate_size": 2**62},
    {**HF, "auto_map": {"AutoModel": "evil.py"}, "patch_size": {}},
    {k: v for k, v in HF.items() if k != "patch_size"},
]


@pytest.mark.parametrize("value", HF_VALUES, ids=lambda v: str(v)[-60:])
def test_a_hugging_face_config_that_no_vit_has_is_named(tmp_path, value):
    (tmp_path / "config.json").write_text(json.dumps(value))
    refuse(
        lambda: fetch_architecture("medmae", str(tmp_path)), str(tmp_path / "config.json"), folder=tmp_path
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "NaN", '{"a": ' + "9" * 5000 + "}", "\ufeff{}", " " * 17_000_000]
)
def test_a_hugging_face_config_that_is_no_json_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    refuse(lambda: fetch_architecture("medmae", str(tmp_path)), str(tmp_path / "config.json"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, backbone: CSR) -> Path:
    return backbone.save_pretrained(tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture
def model_folder(exported: Path, tmp_path: Path) -> Path:
    """Return a model's folder whose weights are a link: only config.json is changed."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(exported / "model.safetensors")
    (folder / "config.json").write_bytes((exported / "config.json").read_bytes())
    return folder


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


ARCH = "architecture"
CONFIGS = [
    put("format", value="x"),
    put("format", value=["csr"]),
    put("format_version", value=99),
    put("format_version", value="1" * 10**6),
    put(ARCH, value=None),
    put(ARCH, value=[]),
    put(ARCH, value={}),
    put(ARCH, "extra", value=1),
    put(ARCH, "num_concepts", value=3),
    put(ARCH, "num_concepts", value=-1),
    put(ARCH, "num_concepts", value=10**12),
    put(ARCH, "num_concepts", value="2"),
    put(ARCH, "num_concepts", value=2.0),
    put(ARCH, "num_concepts", value=True),
    put(ARCH, "num_classes", value=0),
    put(ARCH, "num_prototypes_per_concept", value=10**6),
    put(ARCH, "embedding_dim", value=10**6),
    put(ARCH, "embedding_dim", value=[128]),
    put(ARCH, "image_size", value=10**9),
    put(ARCH, "image_size", value=1),
    put(ARCH, "image_size", value=0),
    put(ARCH, "projector_blocks", value=10**6),
    put(ARCH, "projector_blocks", value=7),
    put(ARCH, "concept_pool", value="evil"),
    put(ARCH, "concept_pool", value={}),
    put(ARCH, "backbone_type", value="x"),
    put(ARCH, "backbone_type", value="medmae"),
    put(ARCH, "backbone_type", value=[]),
    put(ARCH, "model_name", value="no_such_net"),
    put(ARCH, "model_name", value="resnet18"),
    put(ARCH, "model_name", value="../../etc/passwd"),
    put(ARCH, "model_name", value="vit_giant_patch14_clip_224"),
    put(ARCH, "model_name", value="hf_hub:evil/model"),
    put(ARCH, "model_name", value=""),
    put(ARCH, "model_name", value="local-dir:/etc"),
    put(ARCH, "model_name", value=3),
    put(ARCH, "model_name", value="x" * 10**6),
    put(ARCH, "architecture", value={}),
    put(ARCH, "architecture", value="x"),
    put("concept_names", value=[]),
    put("concept_names", value="ab"),
    put("concept_names", value=["a"]),
    put("concept_names", value=["a", "a"]),
    put("concept_names", value=["a", 3]),
    put("concept_names", value=["a", "\u202eb"]),
    put("concept_names", value=["a", "b" * 10**6]),
    put("target_names", value=None),
    put("target_names", value={"a": 1}),
    put("task_loss", value="x"),
    put("task_loss", value=[]),
    put("preprocessing", value={}),
    put("preprocessing", "mean", value=[0, 0]),
    put("preprocessing", "mean", value=["0"] * 3),
    put("preprocessing", "std", value=[0, 1, 1]),
    put("preprocessing", "std", value=[10**400, 1, 1]),
    put("preprocessing", "stored_size", value=10**9),
    put("preprocessing", "image_size", value=32),
    put("reference", value=[1]),
    put("reference", value={"concept_thresholds": {"x": 0.5}}),
    put("reference", value={"absent_medians": {"concept 0": [[1]]}}),
    put("metrics", value=[1]),
    put("method", value="x"),
    put("reference", value={"concept_thresholds": {"concept 0": "nan", "concept 1": 2}}),
    put("reference", value={"target_thresholds": [0.5, 0.5]}),
    put("reference", value={"target_calibration": {"target 0": {"method": "platt", "scale": 1}}}),
    put("reference", value={"concept_calibration": [{"method": "platt", "scale": 10**400, "offset": 0}]}),
]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_a_models_config_that_lies_is_named(model_folder, number):
    path = model_folder / "config.json"
    config = json.loads(path.read_text())
    CONFIGS[number](config)
    path.write_text(json.dumps(config))
    refuse(lambda: CSR.from_pretrained(model_folder), str(model_folder), folder=model_folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "NaN", "null", "[]", "\ufeff{}", "\0"]
)
def test_a_models_config_that_is_no_json_is_named(model_folder, text):
    (model_folder / "config.json").write_text(text)
    refuse(lambda: CSR.from_pretrained(model_folder), str(model_folder / "config.json"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["absent", "pipe", "folder", "dangling", "device"])
def test_a_models_file_that_is_no_file_is_named_and_not_waited_for(model_folder, name, kind):
    path = model_folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    refuse(lambda: CSR.from_pretrained(model_folder), str(model_folder))


@pytest.mark.parametrize(
    "name", ["", "/", "/etc/passwd", "a/b/c", "../x", "a\0b", "~/x", "x" * 5000, "\ud800"]
)
def test_a_source_that_is_no_model_is_named(name, tmp_path):
    refuse(lambda: CSR.from_pretrained(name), folder=tmp_path)


@pytest.mark.parametrize(
    "name", ["../best.pth", "/etc/passwd", "", ".", "best.pth\0", "config.json", "nowhere.pth"]
)
def test_a_checkpoint_that_is_no_file_of_its_run_is_named(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"options": {}, "model": {}}))
    refuse(lambda: load_run(tmp_path, checkpoint=name), folder=tmp_path)
