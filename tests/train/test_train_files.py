"""The files of a run: complete, plain state dicts, numbers equal to those of scikit-learn."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from run_results import load_model, records, weights
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from train_command import start

from csr.config import options
from csr.data.image_cache.store import open_store
from csr.data.images.find import find_images
from csr.data.labels.table import read_label_table
from csr.data.transforms import EvalTransform, stored_size
from csr.model import CSR
from csr.model.sharing.loading import load_run

pytestmark = pytest.mark.dist
EPOCHS = {"concept": 2, "prototype": 5, "task": 2}
TARGETS = ["COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "No finding"]


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
        "test_predictions.csv",
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


def test_the_configuration_holds_options_names_versions_and_revision(run, phantom_folder):
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


def test_the_reference_has_thresholds_medians_and_calibration_of_every_label(run):
    reference = json.loads((run / "reference.json").read_text())
    assert list(reference["target_thresholds"]) == list(reference["target_calibration"]) == TARGETS
    medians, lines = reference["absent_medians"], reference["concept_calibration"]
    assert list(medians) == list(lines) and {len(row) for row in medians.values()} == {5}
    as_it_is = {"method": "score", "scale": 1.0, "offset": 0.0}
    for line in [*lines.values(), *reference["target_calibration"].values()]:
        assert line == as_it_is, "8 validation images cannot hold 5 of each kind"


def test_there_is_one_line_of_metrics_per_epoch(run):
    lines = records(run)
    assert [(r["stage"], r["epoch"]) for r in lines] == [
        (stage, epoch) for stage, epochs in EPOCHS.items() for epoch in range(1, epochs + 1)
    ]
    assert [r["step"] for r in lines] == list(range(3, 28, 3))  # 40 images, 16 a step
    for r in lines:
        assert np.isfinite(r["train_loss"]) and r["seconds"] > 0 and r["skipped_steps"] == 0
        assert 50 < r["telemetry"]["memory_mib"] < 2**16
        if r["stage"] == "prototype":
            assert 0 < r["prototypes_alive"] <= r["prototypes"] == 50
        else:
            assert {"val_loss", "auc", "map", "f1_macro", "f1_micro", "auc_by_label"} <= set(r)


def test_test_results_equal_scikit_learn_on_a_fresh_pass_of_the_saved_model(run, phantom_folder):
    table = read_label_table(phantom_folder / "labels_test.csv")
    store = open_store(
        find_images(phantom_folder / "test", table), size=stored_size(64), cache_dir=None, workers=1
    )
    model = load_run(run)
    assert model.card is not None
    calibrated = {"concept": model.card.concept_probability, "target": model.card.probability}
    with torch.no_grad():
        output = model(EvalTransform(64)(store.batch(range(len(table)))))
    frame = pd.read_csv(phantom_folder / "labels_test.csv").set_index("image_id").loc[list(table.image_ids)]
    results = json.loads((run / "results.json").read_text())
    written = pd.read_csv(run / "test_predictions.csv").set_index("image_id")
    assert written.index.tolist() == list(table.image_ids)
    assert results["num_images"] == len(table) == 24
    for kind, logit_NL in (("concept", output.concept_logits), ("target", output.logits)):
        by_label, written_NL = results[f"{kind}s"], calibrated[kind](logit_NL).numpy()
        probability_NL, truth_NL = logit_NL.sigmoid().numpy(), frame[list(by_label)].to_numpy() == 1
        for i, name in enumerate(by_label):
            np.testing.assert_allclose(written[f"{kind} probability {name}"], written_NL[:, i], atol=1e-5)
            np.testing.assert_array_equal(written[f"{kind} label {name}"], truth_NL[:, i])
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
