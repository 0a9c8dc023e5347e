"""A saved model is the trained model, in another process too; a hostile folder is one line of complaint."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import CONCEPTS, OPTIONS, SIZE, K, M, T, tiny_card, tiny_model

from csr.model import CSR
from csr.model import hub_download as hub_module
from csr.model.sharing.config_file import CONFIG, read_config
from csr.model.sharing.pretrained import README, WEIGHTS
from csr.runtime.errors import InputError

FRESH = """
import sys, torch
from csr.model import CSR
images, expected = torch.load(sys.argv[2])
model = CSR.from_pretrained(sys.argv[1])
with torch.no_grad():
    assert (model(images).logits - expected).abs().max() <= 1e-6
print(*model.card.target_names, sep=", ")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("model") / "shared")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_config(folder: Path, change: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def change_tensors(folder: Path, change: Any) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


def complaint(folder: Path | str) -> str:
    with pytest.raises(InputError) as raised:
        CSR.from_pretrained(folder)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@torch.no_grad()
def test_logits_and_card_come_back_the_same(saved):
    model, back = tiny_model(), CSR.from_pretrained(saved)
    images = torch.randn(3, 3, SIZE, SIZE)
    assert not back.training and torch.equal(model(images).logits, back(images).logits)
    assert back.card is not None and back.card.to_dict() == tiny_card().to_dict()
    assert torch.equal(back.card.reference.absent_KM, tiny_card().reference.absent_KM)


@pytest.mark.slow
@torch.no_grad()
def test_a_fresh_process_computes_the_same_logits(saved, tmp_path):
    images = torch.randn(2, 3, SIZE, SIZE)
    torch.save((images, tiny_model()(images).logits), tmp_path / "expected.pt")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(saved), str(tmp_path / "expected.pt")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Tuberculosis, No finding"


@torch.no_grad()
def test_a_vit_comes_back_with_the_sizes_in_its_config_and_without_its_path(tmp_path):
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 32,
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }
    model = CSR(K, T, M, model_name="/home/someone/mae.pth", image_size=32, architecture=sizes).eval()
    images = torch.randn(1, 3, 32, 32)
    back = CSR.from_pretrained(model.save_pretrained(tmp_path / "vit"))
    assert torch.equal(back(images).logits, model(images).logits)
    assert "/home" not in (tmp_path / "vit" / CONFIG).read_text() + (tmp_path / "vit" / README).read_text()
    giant = {"num_hidden_layers": 10**6}
    change_config(tmp_path / "vit", lambda c: c["architecture"]["architecture"].update(giant))
    assert "num_hidden_layers is not the tensors' 1" in complaint(tmp_path / "vit")


def test_a_model_without_a_card_is_saved_with_made_up_names(tmp_path):
    back = CSR.from_pretrained(CSR(K, T, M, **OPTIONS).save_pretrained(tmp_path))
    assert back.card is not None and back.card.target_names == ("target 0", "target 1")
    assert back.card.target_threshold_T.tolist() == [0.5, 0.5]


def test_the_readme_tells_use_limits_thresholds_and_escapes_names(saved):
    text = (saved / README).read_text()
    for part in ("Intended use", "Not a medical device", "from_pretrained", "0.7000", "library_name: csr"):
        assert part in text
    assert CONCEPTS[2] not in text and "&lt;b&gt;Pleural \\| effusion" in text


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda c: c.pop("format"), "'format' is not 'csr'"),
        (lambda c: c.update(format_version=2), "format_version 2"),
        (lambda c: c.pop("concept_names"), "concept_names missing"),
        (lambda c: c.update(concept_names=["a"], reference=None), "names 1 concepts"),
        (lambda c: c.update(concept_names=["a", "b", "b"]), "repeated"),
        (lambda c: c.update(concept_names=["a", "b", "c\u202e"]), "control characters"),
        (lambda c: c.update(concept_names="abc"), "not a list of names"),
        (lambda c: c.update(task_loss="mse"), "task_loss"),
        (lambda c: c["preprocessing"].update(std=[1, 1, 0]), "std"),
        (lambda c: c["preprocessing"].update(image_size=128), "128 px"),
        (lambda c: c["preprocessing"].update(stored_size=10**9), "stored_size"),
        (lambda c: c["reference"].update(target_thresholds={"x": 1}), "target_thresholds"),
        (lambda c: c["architecture"].pop("model_name"), "model_name"),
        (lambda c: c["architecture"].update(extra=1), "extra"),
        (lambda c: c["architecture"].update(num_concepts=10**9), "out of range"),
        (lambda c: c["architecture"].update(num_prototypes_per_concept=10**5), "100000 numbers"),
        (lambda c: c["architecture"].update(embedding_dim=10**5), "proto_KMD"),
        (lambda c: c["architecture"].update(embedding_dim=True), "embedding_dim"),
        (lambda c: c["architecture"].update(projector_blocks=10**6), "projector blocks"),
        (lambda c: c["architecture"].update(projector_blocks=1), "does not fit"),
        (lambda c: c["architecture"].update(image_size=10**5), "image_size"),
        (lambda c: c["architecture"].update(backbone_type="medmae"), "belong to 'medmae'"),
        (lambda c: c["architecture"].update(model_name="../../etc/passwd.pth"), "timm"),
        (lambda c: c["architecture"].update(model_name="hf-hub:someone/else"), "no such model"),
        (lambda c: c["architecture"].update(model_name="resnet18"), "does not fit"),
        (lambda c: c.update(metrics=[1]), "metrics"),
    ],
)
def test_a_config_that_lies_is_refused_in_one_line(folder, change, told):
    change_config(folder, change)
    assert told in complaint(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"a": NaN}', "[" * 100_000, "\udcff"],
)
def test_a_config_that_is_no_json_object_is_refused(folder, text):
    (folder / CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert CONFIG in complaint(folder)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda s: s.pop("concept_head.conv.weight"), "concept_head.conv.weight"),
        (lambda s: s.pop("prototypes.proto_KMD"), "missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra"),
        (lambda s: s.update({"concept_head.conv.weight": torch.zeros(1, 2, 3, 3)}), "size mismatch"),
        (lambda s: s.update({"task_head.linear.weight": torch.zeros(T, 1)}), "task_head"),
        (lambda s: s["task_head.linear.bias"].fill_(float("nan")), "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_in_one_line(folder, change, told):
    change_tensors(folder, change)
    assert told in complaint(folder)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin"])
def test_pickles_are_never_opened(folder, name, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps({"a": Evil()}))
    assert WEIGHTS in complaint(folder)
    assert not (folder / "pwned").exists()


def test_truncated_weights_are_refused(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    assert "safetensors" in complaint(folder)


def test_pipes_are_not_waited_for(folder):
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert complaint(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "../up", "a/b/c", "~/x", "name/"])
def test_what_looks_like_a_folder_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr(hub_module, "fetch", lambda *a, **k: pytest.fail("asked the hub"))
    assert "no such folder" in complaint(name)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "fetch", lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    for name in ("checkpoints/q1", "checkpoints/q10", "checkpoints/.cache"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("q1", "q10"):
        (tmp_path / "checkpoints" / name / CONFIG).write_text("{}")
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("name", ["checkpoints/q2", "checkpoint"])
def test_a_mistyped_folder_is_not_asked_of_the_hub(runs, name):
    told = complaint(name)
    assert told.startswith(f"{name}: no such folder")
    assert ("did you mean checkpoints/q1 or checkpoints/q10?" in told) == ("/" in name)


def test_an_owner_whose_folder_is_empty_is_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    assert "from the hub" in complaint("owner/model-that-is-not-cached")


def test_of_a_folder_of_runs_the_runs_are_named(runs):
    assert "holds no model.safetensors; did you mean checkpoints/q1 or checkpoints/q10?" in complaint(
        "checkpoints"
    )
    with pytest.raises(InputError, match="did you mean checkpoints/q1 or checkpoints/q10"):
        read_config(Path("checkpoints", CONFIG))


def test_a_folder_that_is_no_atlas_is_told_as_such(tmp_path):
    with pytest.raises(InputError, match="is no atlas, it has no nearest.json; give .* `csr atlas` wrote"):
        read_config(tmp_path / "nope" / "nearest.json")


def test_a_hub_id_is_fetched_with_its_revision(saved, monkeypatch):
    asked = []

    def fetch(repo_id, names, *, revision, advice):
        asked.append((repo_id, names, revision))
        return saved / names[0]

    monkeypatch.setattr(hub_module, "fetch", fetch)
    assert CSR.from_pretrained("someone/model", revision="v1").num_concepts == K
    assert asked == [("someone/model", (CONFIG,), "v1"), ("someone/model", (WEIGHTS,), "v1")]


def test_an_unreachable_hub_is_one_line_with_advice():
    told = complaint("someone/model-that-is-not-cached")
    assert "csr export" in told and "no_pretrained" not in told


def test_the_path_of_no_folder_is_not_asked_of_the_hub(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        hub_module.fetch(str(tmp_path / "nowhere"), ("config.json",))


def test_push_to_hub_uploads_a_complete_folder(monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append((repo_id, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path):
            assert sorted(os.listdir(folder_path)) == sorted([CONFIG, WEIGHTS, README])
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert tiny_model().push_to_hub("me/model") == "https://hub/me/model"
    assert calls == [("me/model", True, True)]


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        tiny_model().save_pretrained(tmp_path / "file" / "below")
