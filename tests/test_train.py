"""The whole command on a small phantom: what it prints and writes, and that the numbers are what they say."""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from train_command import contents, flags, start, train

import csr.train
from csr.config import options
from csr.config.flags import add_arguments
from csr.data.image_cache.store import open_store
from csr.data.images.find import find_images
from csr.data.labels.table import read_label_table
from csr.data.transforms import EvalTransform, stored_size
from csr.model import CSR

pytestmark = pytest.mark.dist
EPOCHS = {"concept": 2, "prototype": 5, "task": 2}
TARGETS = ["COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "No finding"]
BACKBONE = {"backbone_type": "timm", "model_name": "test_resnet", "image_size": 64}
# small steps of the last two stages: large ones turn rounding into other minima
GENTLE = ("--augment", "none", "--prototype_lr_scale", "0.1", "--task_lr_scale", "1")


@pytest.fixture(scope="session")
def results(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train") / "results"


@pytest.fixture(scope="session")
def printed(phantom_folder: Path, results: Path) -> Any:
    """One real run in a process of its own, into results/csr_exp."""
    done = train(*flags(phantom_folder, results, "--log_every", "1"))
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def run(printed: Any, results: Path) -> Path:
    return results / "csr_exp"


@pytest.fixture(scope="session")
def variants(phantom_folder: Path, results: Path, run: Path) -> str:
    """Further runs, one after another in one process, and what they printed."""
    (results / "replaced").mkdir()
    (results / "replaced" / "metrics.jsonl").write_text("of an earlier run\n")
    (results / "replaced" / "notes.txt").write_text("mine")
    boxes = ("--boxes_csv", str(phantom_folder / "boxes_train.csv"), "--log_every", "1")
    runs = [
        flags(phantom_folder, results, "--overwrite", exp_name="replaced"),
        flags(phantom_folder, results, *GENTLE, exp_name="memory", cache="memory"),
        flags(phantom_folder, results, *GENTLE, exp_name="off", cache="off", image_cache="off"),
        flags(phantom_folder, results, *boxes, exp_name="boxes", epochs_stage2="1", epochs_stage3="1"),
        flags(phantom_folder, results, "--dry_run", exp_name="dry"),
    ]
    code = f"import csr.train\nfor argv in {runs!r}:\n    print('>>>', flush=True)\n    csr.train.main(argv)"
    done = start(Path(sys.executable).name, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


def load_model(folder: Path, name: str = "best_model_stage3.pth") -> CSR:
    model = CSR(num_concepts=10, num_classes=6, num_prototypes_per_concept=5, **BACKBONE)
    model.load_state_dict(weights(folder, name))
    return model.eval()


# files


def test_the_files_of_the_training_guide_are_there_and_nothing_half_written(run):
    names = {p.name for p in run.rglob("*")}
    assert names >= {
        "best_model_stage1.pth",
        "best_model_stage3.pth",
        "model_stage2_epoch5.pth",
        "final_model.pth",
        "config.json",
        "deepspeed_config.json",
        "metrics.jsonl",
        "results.json",
        "reference.json",
        "tensorboard",
    }
    assert not [n for n in names if n.endswith(".tmp")]
    assert {p.name for p in run.glob("*.pth")} == {
        "best_model_stage1.pth",
        "best_model_stage3.pth",
        "model_stage2_epoch5.pth",
        "final_model.pth",
    }


@pytest.mark.parametrize(
    "name", ["best_model_stage1.pth", "model_stage2_epoch5.pth", "best_model_stage3.pth", "final_model.pth"]
)
def test_every_checkpoint_is_a_plain_fp32_state_dict_that_the_model_loads(run, name):
    state = weights(run, name)
    assert isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values())
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
    load_model(run, name)


def test_the_final_model_is_the_best_of_stage_3_on_the_best_of_stage_1(run):
    final, best, first = (
        weights(run, n) for n in ("final_model.pth", "best_model_stage3.pth", "best_model_stage1.pth")
    )
    assert all(torch.equal(final[k], best[k]) for k in best)
    frozen = [k for k in first if k.startswith(("backbone.", "concept_head."))]
    assert frozen and all(torch.equal(final[k], first[k]) for k in frozen)


def test_the_configuration_tells_options_names_versions_and_revision(run, phantom_folder):
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["optim"]["lr"] == 1e-3 and config["options"]["data"]["image_size"] == 64
    groups = {g: {f for f in values} for g, values in config["options"].items()}
    assert groups == {g: set(c.__dataclass_fields__) for g, c in options.groups().items()}
    header = pd.read_csv(phantom_folder / "labels_train.csv").columns.tolist()[2:]
    assert config["concept_names"] == [c for c in header if c not in TARGETS]
    assert config["target_names"] == TARGETS
    assert set(config["versions"]) >= {"csr", "python", "torch", "deepspeed", "timm"}
    assert config["git_revision"] is None or re.fullmatch(r"\S{7,}", config["git_revision"])
    rebuilt = CSR(**config["model"])
    rebuilt.load_state_dict(weights(run, "final_model.pth"))


def test_the_deepspeed_configuration_is_what_ran(run):
    merged = json.loads((run / "deepspeed_config.json").read_text())
    assert merged["zero_optimization"]["stage"] == 2
    assert merged["train_micro_batch_size_per_gpu"] == merged["train_batch_size"] == 16
    assert merged["gradient_clipping"] == 1.0


def test_there_is_one_line_of_metrics_per_epoch(run):
    lines = records(run)
    assert [(r["stage"], r["epoch"]) for r in lines] == [
        (stage, epoch) for stage, epochs in EPOCHS.items() for epoch in range(1, epochs + 1)
    ]
    assert [r["step"] for r in lines] == list(range(3, 28, 3))  # 40 images, 16 a step
    for r in lines:
        assert np.isfinite(r["train_loss"]) and r["seconds"] > 0 and r["skipped_steps"] == 0
        if r["stage"] == "prototype":
            assert 0 < r["prototypes_alive"] <= r["prototypes"] == 50
        else:
            assert {"val_loss", "auc", "map", "f1_macro", "f1_micro", "auc_by_label"} <= set(r)


def test_test_results_equal_scikit_learn_on_a_fresh_pass_of_the_saved_model(run, phantom_folder):
    table = read_label_table(phantom_folder / "labels_test.csv")
    store = open_store(
        find_images(phantom_folder / "test", table), size=stored_size(64), cache_dir=None, workers=1
    )
    with torch.no_grad():
        output = load_model(run)(EvalTransform(64)(store.batch(range(len(table)))))
    frame = pd.read_csv(phantom_folder / "labels_test.csv").set_index("image_id").loc[list(table.image_ids)]
    results = json.loads((run / "results.json").read_text())
    assert results["num_images"] == len(table) == 24
    for kind, logit_NL in (("concept", output.concept_logits), ("target", output.logits)):
        by_label = results[f"{kind}s"]
        probability_NL, truth_NL = logit_NL.sigmoid().numpy(), frame[list(by_label)].to_numpy() == 1
        expected: dict[str, list[float]] = {"auc": [], "map": [], "f1_macro": []}
        for i, name in enumerate(by_label):
            truth, score = truth_NL[:, i], probability_NL[:, i]
            if not truth.any():
                assert by_label[name] == {"auc": None, "ap": None, "f1": None}
                continue
            values = (
                roc_auc_score(truth, score),
                average_precision_score(truth, score),
                f1_score(truth, score >= 0.5),
            )
            assert tuple(by_label[name].values()) == pytest.approx(values, abs=1e-6)
            for key, value in zip(expected, values):
                expected[key].append(value)
        for key, values_L in expected.items():
            assert results["summary"][f"{kind}_{key}"] == pytest.approx(np.mean(values_L), abs=1e-6)
        micro = f1_score(truth_NL.ravel(), probability_NL.ravel() >= 0.5)
        assert results["summary"][f"{kind}_f1_micro"] == pytest.approx(micro, abs=1e-6)


SNIPPET = """
import torch
from csr.model import CSR
model = CSR(num_concepts=10, num_classes=6, num_prototypes_per_concept=5,
            backbone_type="timm", model_name="test_resnet", image_size=64)
model.load_state_dict(torch.load("results/csr_exp/best_model_stage3.pth", weights_only=True))
output = model.eval()(torch.zeros(2, 3, 64, 64))
for name in ("logits", "similarity_scores", "similarity_maps", "cams", "concept_logits"):
    assert output[name] is getattr(output, name)
    print(name, tuple(output[name].shape))
"""


def test_the_inference_snippet_works_in_a_fresh_interpreter(run):
    done = start(Path(sys.executable).name, "-c", SNIPPET, cwd=run.parent.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "logits (2, 6)",
        "similarity_scores (2, 10, 5)",
        "similarity_maps (2, 10, 5, 2, 2)",
        "cams (2, 10, 2, 2)",
        "concept_logits (2, 10)",
    ]
    assert done.stderr == ""


# TensorBoard


def board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ranks = sorted((folder / "tensorboard").iterdir())
    assert [r.name for r in ranks] == [f"rank0-{socket.gethostname()}"]
    return EventAccumulator(str(ranks[0]), size_guidance={"scalars": 0, "images": 0}).Reload()


def test_tensorboard_holds_what_each_rank_and_what_all_ranks_measured(run):
    events = board(run)
    tags = set(events.Tags()["scalars"])
    groups_of = {"concept": ("backbone", "concept_head"), "prototype": ("projector",), "task": ("task_head",)}
    for stage, groups in groups_of.items():
        for name in ("loss", "gradient_norm", "loss_scale", "images_per_s", "data_wait_s", "memory_mib"):
            assert f"{stage}/{name}" in tags
        assert {f"{stage}/lr_{group}" for group in groups} <= tags
        assert f"{stage}_epoch/train_loss" in tags
    for stage, label in (("concept", "Emphysema"), ("task", "No finding")):
        assert {f"{stage}_epoch/{m}" for m in ("val_loss", "auc", "map", "f1_macro", "f1_micro")} <= tags
        assert f"{stage}_auc/{label}" in tags
    assert "prototype_epoch/prototypes_alive" in tags
    losses = [e.value for e in events.Scalars("concept_epoch/train_loss")]
    assert losses == pytest.approx([r["train_loss"] for r in records(run)[:2]], rel=1e-6)
    assert len(events.Scalars("concept/loss")) == 6


def test_tensorboard_holds_pictures_and_hyperparameters(run):
    events = board(run)
    assert {"concept/explanations", "task/explanations"} <= set(events.Tags()["images"])
    picture = events.Images("task/explanations")[0]
    assert picture.width > 64 and picture.height > 64
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")
    results = json.loads((run / "results.json").read_text())["summary"]
    assert events.Scalars("hparam/target_auc")[0].value == pytest.approx(results["target_auc"], abs=1e-6)


# what is printed


def test_the_run_prints_banners_weights_epochs_and_the_test_table(printed, run):
    lines = printed.stdout.splitlines()
    for number, (stage, epochs) in enumerate(EPOCHS.items(), start=1):
        assert f"=== Stage {number}/3: {stage} learning ({epochs} epochs) ===" in lines
    assert [line for line in lines if re.fullmatch(r"Positive weights: \d+\.\d\d to \d+\.\d\d", line)]
    number = r"(\d\.\d{4}|nan)"
    names = ("Val loss", "AUC", "mAP", "F1 macro", "F1 micro")
    measured = r" \| ".join(f"{name}: {number}" for name in names)
    epochs = [line for line in lines if re.match(rf"Epoch \d/\d \| Train loss: {number} \| ", line)]
    assert len(epochs) == 9
    assert sum(bool(re.search(measured, line)) for line in epochs) == 4
    for stage in (1, 3):
        path = run / f"best_model_stage{stage}.pth"
        saved = rf"Saved best model \(AUC {number}\): {re.escape(str(path))}"
        assert any(re.fullmatch(saved, line) for line in lines)
    at = lines.index("=== Test set: 24 images, best model of stage 3 ===")
    results = json.loads((run / "results.json").read_text())
    for kind in ("concepts", "targets"):
        for name, scores in results[kind].items():
            row = next(x for x in lines[at:] if x.startswith(f"{name}  "))
            shown = row[len(name) :].split()
            assert shown == ["nan" if v is None else f"{v:.4f}" for v in scores.values()]
    assert any(line == f"Results: {run}" for line in lines)


def test_a_normal_run_leaves_nothing_on_stderr(printed):
    assert printed.stderr == ""


def test_help_groups_every_flag_with_its_meaning_and_default(capsys):
    with pytest.raises(SystemExit) as left:
        csr.train.main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for group_class in options.groups().values():
        assert f"\n{group_class.__doc__}:\n" in text
    flat = re.sub(r"\s+", " ", text)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    shown = [a for a in parser._actions if a.help != argparse.SUPPRESS and a.dest != "help"]
    assert len(shown) > 45
    for action in shown:
        meaning = re.sub(r"\s+", " ", str(action.help).replace("%%", "%"))
        assert action.option_strings[0] in flat and meaning in flat
        assert "(default: " in meaning, action.option_strings


# further runs


def test_two_runs_of_one_seed_end_with_the_same_weights_bit_for_bit(run, results, variants):
    for name in ("best_model_stage1.pth", "model_stage2_epoch5.pth", "final_model.pth"):
        one, two = weights(run, name), weights(results / "replaced", name)
        assert all(torch.equal(one[k], two[k]) for k in one), name


def test_overwrite_replaces_what_csr_wrote_and_leaves_other_files(results, variants):
    assert len(records(results / "replaced")) == 9
    assert (results / "replaced" / "notes.txt").read_text() == "mine"


def test_cached_features_give_the_numbers_that_images_give(results, variants):
    cached, decoded = records(results / "memory"), records(results / "off")
    assert [r["train_loss"] for r in cached] == pytest.approx([r["train_loss"] for r in decoded], abs=1e-4)
    val_cached, val_decoded = ([r["val_loss"] for r in x if "val_loss" in r] for x in (cached, decoded))
    assert val_cached == pytest.approx(val_decoded, abs=1e-4)
    for name, value in weights(results / "memory", "final_model.pth").items():
        torch.testing.assert_close(
            value, weights(results / "off", "final_model.pth")[name], atol=1e-2, rtol=1e-3, msg=name
        )


def test_a_table_of_boxes_turns_on_box_supervision(run, results, variants):
    boxed = board(results / "boxes")
    values = [e.value for e in boxed.Scalars("concept/box_loss")]
    assert len(values) == 6 and min(values) > 0
    assert "concept/box_loss" not in board(run).Tags()["scalars"]
    assert records(results / "boxes")[0]["train_loss"] > records(run)[0]["train_loss"]


def test_a_dry_run_says_what_it_checked_and_leaves_no_results(results, variants):
    said = variants.split(">>>")[-1]
    assert "40 training, 8 validation, 24 test images" in said
    assert [f"=== Stage {n}/3" in said for n in (1, 2, 3)] == [True] * 3
    assert "Dry run done: data, model, one step of every stage, saving and loading work." in said
    assert not (results / "dry").exists()
    assert contents(results)  # the others' results are still there
