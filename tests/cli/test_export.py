"""`csr export`: a run becomes a folder that loads to the same logits; ONNX computes them too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_encoders import FAMILIES
from tiny_model import SIZE, tiny_card, tiny_model, write_run

from csr.cli.export import main
from csr.model import CSR
from csr.model.sharing.loading import load_model
from csr.model.sharing.onnx import export_onnx
from csr.runtime.errors import InputError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", tiny_model())


@torch.no_grad()
def test_the_exported_folder_has_the_logits_of_the_run_without_it(run, tmp_path):
    images = torch.randn(2, 3, SIZE, SIZE)
    expected = tiny_model()(images).logits
    assert torch.equal(load_model(run)(images).logits, expected)
    assert main([str(run), str(tmp_path / "out")]) == 0
    shutil.rmtree(run)
    model = CSR.from_pretrained(tmp_path / "out")
    assert (model(images).logits - expected).abs().max() <= 1e-6
    assert model.card is not None and model.card.metrics["num_images"] == 24
    torch.testing.assert_close(model.card.target_threshold_T, tiny_card().target_threshold_T)
    assert torch.equal(load_model(tmp_path / "out")(images).logits, expected)


def test_folders_of_the_training_machine_do_not_leave_it(run, tmp_path):
    main([str(run), str(tmp_path / "out")])
    text = (tmp_path / "out" / "config.json").read_text() + (tmp_path / "out" / "README.md").read_text()
    assert "train.csv" in text and "secret" not in text and str(tmp_path) not in text
    assert "0.7500" in text, "metrics are in the model card"


def test_another_checkpoint_goes_without_numbers_that_are_not_its_own(run, tmp_path):
    main([str(run), str(tmp_path / "out"), "--checkpoint", "model_stage2_epoch5.pth"])
    model = CSR.from_pretrained(tmp_path / "out")
    assert model.card is not None and not model.card.metrics and model.card.reference.absent_KM is None
    assert "before the task stage" in (tmp_path / "out" / "README.md").read_text()


def test_a_run_without_reference_values_is_exported_with_a_notice(tmp_path, capsys):
    run = write_run(tmp_path / "run", tiny_model(), with_reference=False)
    assert main([str(run), str(tmp_path / "out")]) == 0
    assert "0.5 is used" in capsys.readouterr().out


def test_a_pth_with_its_config_beside_it_becomes_a_folder(run, tmp_path, capsys):
    lone = tmp_path / "copied"
    lone.mkdir()
    for name in ("best_model_stage3.pth", "config.json"):
        shutil.copy(run / name, lone)
    assert main([str(lone / "best_model_stage3.pth"), str(tmp_path / "out")]) == 0
    before, after = load_model(run).state_dict(), CSR.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    (lone / "config.json").unlink()
    with pytest.raises(InputError, match="config.json of its run must lie beside it"):
        main([str(lone / "best_model_stage3.pth"), str(tmp_path / "other")])
    with pytest.raises(InputError, match="no such file"):
        main([str(lone / "nothing.pth"), str(tmp_path / "other")])
    assert "notice" not in capsys.readouterr().err


def test_weights_from_before_stage_3_are_reported(run, tmp_path, capsys):
    shutil.copy(run / "best_model_stage3.pth", run / "best_model_stage1.pth")
    load_model(run, checkpoint="best_model_stage1.pth")
    assert "before stage 3: its diagnoses mean nothing yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, message",
    [
        (["--checkpoint", "other.pth"], "there are: best_model_stage3.pth"),
        (["--checkpoint", "../x.pth"], "name of a file"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused_with_the_names_of_those_that_are(
    run, tmp_path, more, message
):
    with pytest.raises(InputError, match=message):
        main([str(run), str(tmp_path / "out"), *more])
    assert not (tmp_path / "out").exists()


def test_a_used_folder_is_left_alone_unless_overwrite(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        main([str(run), str(out)])
    assert main([str(run), str(out), "--overwrite"]) == 0
    assert (out / "notes.txt").read_text() == "keep" and not list(out.glob(".*"))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder with another model that was refined, its graph, and a file of the user's."""
    out = tmp_path / "out"
    tiny_model(seed=1).save_pretrained(out)
    for name in ("model.onnx", "refine.json", "keep.csv", "refined_model.pth", "notes.txt"):
        (out / name).write_text("of another model")
    return out


def test_an_export_leaves_nothing_of_the_model_that_it_replaces(run, filled):
    assert main([str(run), str(filled), "--overwrite"]) == 0
    names = ["README.md", "config.json", "model.safetensors", "notes.txt"]
    assert sorted(path.name for path in filled.iterdir()) == names


def test_an_export_of_a_refined_model_into_its_own_folder_leaves_the_refinement(filled):
    assert main([str(filled), str(filled), "--overwrite"]) == 0
    assert (filled / "refine.json").is_file() and not (filled / "model.onnx").exists()


def test_keep_csv_of_an_atlas_is_no_file_of_a_refined_model(run, filled):
    (filled / "refine.json").unlink()
    main([str(run), str(filled), "--overwrite"])
    assert (filled / "keep.csv").is_file()


def test_a_run_is_not_exported_over(run, tmp_path):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InputError, match="is the folder of a run"):
        main([str(run), str(run), "--overwrite"])
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x04N."])
def test_a_damaged_checkpoint_is_one_line(run, tmp_path, content):
    (run / "best_model_stage3.pth").write_bytes(content)
    with pytest.raises(InputError, match="best_model_stage3.pth"):
        main([str(run), str(tmp_path / "out")])


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        main([str(tmp_path / "none"), str(tmp_path / "out")])
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(InputError, match="not written by"):
        main([str(tmp_path), str(tmp_path / "out")])


def test_onnx_without_its_packages_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -e '.\[onnx\]'"):
        main([str(run), str(tmp_path / "out"), "--onnx"])
    assert not (tmp_path / "out").exists()


def test_a_backbone_that_cannot_be_exported_is_one_line_with_the_reason_and_no_folder(
    run, tmp_path, monkeypatch
):
    pytest.importorskip("onnxscript")

    def fail(*args, **kwargs):
        try:
            raise ValueError("Cannot view a tensor of 16*s0\nWhile executing %view\nOriginal traceback:")
        except ValueError as error:
            raise torch.onnx.errors.OnnxExporterError("\n\nThis is step 2/3. Next steps: ..") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(InputError) as caught:
        main([str(run), str(tmp_path / "out"), "--onnx"])
    assert str(caught.value) == (
        "--onnx: this backbone cannot be exported (ValueError: Cannot view a tensor of 16*s0)"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, name, size",
    [("timm", "test_resnet", 64), ("timm", "test_vit", 160), ("hf", "swin", 64), ("hf", "swinv2", 64)],
)
@torch.no_grad()
def test_the_onnx_graph_computes_all_outputs_for_any_batch(kind, name, size, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    options = {"backbone_type": kind, "model_name": name, "image_size": size, "embedding_dim": 8}
    if kind == "hf":
        options["architecture"] = {"model_type": name, **FAMILIES[name]}
    model = CSR(3, 2, 4, **options).eval()
    export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, size, size)
        expected = model(images)
        names = [output.name for output in session.get_outputs()]
        assert names == list(expected.keys())
        for name, value in zip(names, session.run(None, {"image": images.numpy()}), strict=True):
            np.testing.assert_allclose(value, expected[name].numpy(), atol=1e-5)


@pytest.mark.slow
def test_maxvit_whose_grids_need_one_batch_size_is_refused_in_one_line(tmp_path):
    pytest.importorskip("onnxscript")
    options = {"backbone_type": "timm", "model_name": "test_maxvit", "image_size": 128, "embedding_dim": 8}
    with pytest.raises(InputError, match="^--onnx: this backbone cannot be exported .*Cannot view") as caught:
        export_onnx(CSR(3, 2, 4, **options).eval(), tmp_path / "model.onnx")
    assert "\n" not in str(caught.value) and not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_an_export_with_a_graph_holds_both(run, tmp_path):
    pytest.importorskip("onnxscript")
    assert main([str(run), str(tmp_path / "out"), "--onnx"]) == 0
    names = ["README.md", "config.json", "model.onnx", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
