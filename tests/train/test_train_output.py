"""Output of a run: TensorBoard, printed lines, the help."""

from __future__ import annotations

import argparse
import json
import re
from importlib import metadata

import pytest
from run_results import board, records

import csr.train
from csr.config import options
from csr.config.flags import add_arguments

pytestmark = pytest.mark.dist
EPOCHS = {"concept": 2, "prototype": 5, "task": 2}


def test_tensorboard_holds_what_each_rank_and_what_all_ranks_measured(run):
    events = board(run)
    tags = set(events.Tags()["scalars"])
    groups_of = {"concept": ("backbone", "concept_head"), "prototype": ("projector",), "task": ("task_head",)}
    for stage, groups in groups_of.items():
        for name in ("loss", "gradient_norm", "skipped_steps", "images_per_s", "data_wait_s", "memory_mib"):
            assert f"{stage}/{name}" in tags
        assert {f"{stage}/lr_{group}" for group in groups} <= tags
        assert f"{stage}_epoch/train_loss" in tags
    for stage, label in (("concept", "Emphysema"), ("task", "No finding")):
        assert {
            f"{stage}_epoch/{m}" for m in ("val_loss", "val_ece", "auc", "map", "f1_macro", "f1_micro")
        } <= tags
        assert f"{stage}_auc/{label}" in tags
    assert "prototype_epoch/prototypes_alive" in tags
    losses = [e.value for e in events.Scalars("concept_epoch/train_loss")]
    assert losses == pytest.approx([r["train_loss"] for r in records(run)[:2]], rel=1e-6)
    assert len(events.Scalars("concept/loss")) == 6
    assert not any("_ranks/" in tag or tag.endswith(("_no_decay", "loss_scale")) for tag in tags)
    quantities = [tag for tag in tags if tag.endswith(("images_per_s", "data_wait_s", "skipped_steps"))]
    assert len(quantities) == 3 * len(EPOCHS), "each once in a stage"


def test_tensorboard_holds_pictures_and_hyperparameters(run):
    events = board(run)
    assert {"concept/explanations", "task/explanations"} <= set(events.Tags()["images"])
    picture = events.Images("task/explanations")[0]
    assert picture.width > 64 and picture.height > 64
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")
    results = json.loads((run / "results.json").read_text())["summary"]
    assert events.Scalars("test/target_auc")[0].value == pytest.approx(results["target_auc"], abs=1e-6)
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("hparam/")]


def test_tensorboard_holds_one_layout_and_the_run_in_words(run):
    from tensorboard.plugins.custom_scalar import layout_pb2

    events = board(run)
    (config,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    tags = events.Tags()["scalars"]
    charts = [chart for category in layout.category for chart in category.chart]
    empty = [c.title for c in charts if not any(re.match(t, tag) for t in c.multiline.tag for tag in tags)]
    assert not empty and len(charts) > 15
    texts = {
        name: events.Tensors(f"run/{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("options", "data", "code")
    }
    assert "| --exp\\_name | csr\\_exp |" in texts["options"] and "| Emphysema | concept | " in texts["data"]
    assert f"| version of torch | {metadata.version('torch')} |" in texts["code"]


def test_the_run_prints_banners_weights_epochs_and_the_test_table(printed, run):
    lines = printed.stdout.splitlines()
    for number, (stage, epochs) in enumerate(EPOCHS.items(), start=1):
        assert f"=== Stage {number}/3: {stage} learning ({epochs} epochs) ===" in lines
    assert [line for line in lines if re.fullmatch(r"Positive weights: \d+\.\d\d to \d+\.\d\d", line)]
    number = r"(\d\.\d{4}|nan)"
    names = ("Val loss", "AUC", "mAP", "F1@0.5 macro", "F1@0.5 micro")
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
