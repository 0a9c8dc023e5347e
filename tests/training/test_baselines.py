"""Baselines as real runs: they follow a plain PyTorch loop, resume, take stage 1 over, and are evaluated."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ended_run import STEP, ended, finished
from run_results import records
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F
from train_command import flags, start, train

from csr.cli.evaluate import main as evaluate
from csr.cli.exit_codes import run_command
from csr.cli.study.compare import main as compare
from csr.data.image_cache.store import open_store
from csr.data.images.find import find_images
from csr.data.labels.table import read_label_table
from csr.data.labels.validation_split import split_validation
from csr.data.transforms import EvalTransform, stored_size
from csr.evaluation.comparison.predictions import read_predictions
from csr.model.baselines import BlackBox, ConceptBottleneck
from csr.model.sharing.loading import load_model, load_to_evaluate
from csr.runtime.errors import InputError

pytestmark = pytest.mark.dist
EPOCHS = 4
BACKBONE = {"backbone_type": "timm", "model_name": "test_resnet", "image_size": 64}
# one step an epoch on all images: their order and batches are of no matter to a plain loop
WHOLE = ("--augment", "none", "--batch_size", "64", "--clip", "0.5", "--warmup", "0.5")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("baselines") / "results"


def words(phantom_folder: Path, out: Path, kind: str, *more: str, **changed: str | Path) -> list[str]:
    epochs = {"epochs_stage1": str(EPOCHS), "epochs_stage2": None, "epochs_stage3": None}
    epochs |= {"epochs_stage3": "3"} if kind == "cbm" else {}
    changed = {"exp_name": kind, **epochs, **changed}
    return ["--baseline", kind, *flags(phantom_folder, out, *more, **changed)]


@pytest.fixture(scope="module")
def runs(phantom_folder: Path, out: Path) -> dict[str, Path]:
    """One run of each kind, as `csr baseline` starts it."""
    for kind in ("blackbox", "cbm-joint", "cbm"):
        given = words(phantom_folder, out, kind, *WHOLE)[2:]
        done = start(Path(sys.executable).name, "-m", "csr", "baseline", kind, *given)
        assert done.returncode == 0, done.stderr
        assert f"baseline {kind}" in done.stdout and "prototypes" not in done.stdout
    return {kind: out / kind for kind in ("blackbox", "cbm-joint", "cbm")}


class Data:
    """The images and labels of the phantom set, decoded and split once more."""

    def __init__(self, folder: Path) -> None:
        self.table = read_label_table(folder / "labels_train.csv")
        self.test = read_label_table(folder / "labels_test.csv")
        self.train_N, self.val_N = split_validation(self.table, fraction=0.1, seed=0)
        self.images = self._images(folder / "train", self.table)
        self.test_images = self._images(folder / "test", self.test)

    def _images(self, folder: Path, table: Any) -> torch.Tensor:
        store = open_store(find_images(folder, table), size=stored_size(64), cache_dir=None, workers=1)
        return EvalTransform(64)(store.batch(range(len(table))))


@pytest.fixture(scope="module")
def data(phantom_folder: Path) -> Data:
    return Data(phantom_folder)


def weights_of(label: np.ndarray) -> torch.Tensor:
    """Negatives / positives of each label, from 1/20 to 20."""
    ratio = (label == 0).sum(0) / np.maximum((label == 1).sum(0), 1e-9)
    return torch.from_numpy(np.clip(ratio, 0.05, 20.0)).float()


def final_of(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "final_model.pth", weights_only=True)


def bce(logit: torch.Tensor, label: np.ndarray, weight: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logit, torch.from_numpy(label), pos_weight=weight)


def plain_run(kind: str, data: Data) -> tuple[list[float], list[float]]:
    """Train with torch.optim alone; return the losses of training and of validation by epoch."""
    torch.manual_seed(0)
    num_concepts, num_targets = len(data.table.concept_names), len(data.table.target_names)
    model: torch.nn.Module = BlackBox(num_targets, **BACKBONE)
    if kind == "cbm-joint":
        torch.manual_seed(0)
        model = ConceptBottleneck(num_concepts, num_targets, concept_pool="avg", **BACKBONE)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    train, val = data.train_N, data.val_N
    weight_T, weight_K = weights_of(data.table.target_NT[train]), weights_of(data.table.concept_NK[train])
    rates = [0.5, 1.0, 1.0, 0.5]  # two steps of warm-up, then a half cosine
    losses, val_losses = [], []
    for epoch in range(EPOCHS):
        model.train()
        output = model(data.images[train])
        loss = bce(output.logits, data.table.target_NT[train], weight_T)
        if kind == "cbm-joint":
            loss = loss + bce(output.concept_logits, data.table.concept_NK[train], weight_K)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rates[epoch]
        optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = model(data.images[val]).logits
        losses.append(loss.item())
        val_losses.append(bce(logits, data.table.target_NT[val], weight_T).item())
    return losses, val_losses


@pytest.mark.parametrize("kind", ["blackbox", "cbm-joint"])
def test_a_run_follows_a_plain_pytorch_loop(kind, runs, data):
    losses, val_losses = plain_run(kind, data)
    lines = records(runs[kind])
    assert [line["stage"] for line in lines] == [{"cbm-joint": "joint"}.get(kind, kind)] * EPOCHS
    assert [line["train_loss"] for line in lines] == pytest.approx(losses, rel=1e-3)
    assert [line["val_loss"] for line in lines] == pytest.approx(val_losses, rel=2e-3)


def test_the_bottlenecks_second_stage_follows_a_plain_loop_on_its_own_first_stage(runs, data):
    lines = [line for line in records(runs["cbm"]) if line["stage"] == "bottleneck"]
    assert [line["stage"] for line in records(runs["cbm"])] == ["concept"] * EPOCHS + ["bottleneck"] * 3
    state = torch.load(runs["cbm"] / "best_model_stage1.pth", weights_only=True)
    num_concepts, num_targets = len(data.table.concept_names), len(data.table.target_names)
    model = ConceptBottleneck(num_concepts, num_targets, concept_pool="avg", **BACKBONE).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        concept_NK = model(data.images).concept_logits
    train, val = concept_NK[data.train_N], concept_NK[data.val_N]
    mean, sd = train.mean(0), train.std(0, unbiased=False).clamp_min(1e-2)
    head = torch.nn.Linear(num_concepts, num_targets)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(
        [{"params": [head.weight], "weight_decay": 0.01}, {"params": [head.bias], "weight_decay": 0.0}]
    )
    weight_T = weights_of(data.table.target_NT[data.train_N])
    for line, rate in zip(lines, (0.5, 1.0, 1.0), strict=True):
        loss = bce(head((train - mean) / sd), data.table.target_NT[data.train_N], weight_T)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate
        optimizer.step()
        assert line["train_loss"] == pytest.approx(loss.item(), rel=3e-5)
        with torch.no_grad():
            val_loss = bce(head((val - mean) / sd), data.table.target_NT[data.val_N], weight_T)
        # logits of a bare network hardly vary: divided by their sd, rounding shows, in few images more
        assert line["val_loss"] == pytest.approx(val_loss.item(), rel=5e-3)
    final = torch.load(runs["cbm"] / "final_model.pth", weights_only=True)
    frozen = [name for name in state if name.startswith(("backbone.", "concept_head."))]
    assert frozen and all(torch.equal(final[name], state[name]) for name in frozen)


@pytest.mark.parametrize("kind", ["blackbox", "cbm-joint", "cbm"])
def test_a_run_leaves_what_comparisons_and_evaluations_read(
    kind, runs, data, phantom_folder, tmp_path, capsys
):
    run = runs[kind]
    state = torch.load(run / "best_model_stage3.pth", weights_only=True)
    num_concepts, num_targets = len(data.table.concept_names), len(data.table.target_names)
    model: torch.nn.Module = BlackBox(num_targets, **BACKBONE)
    if kind != "blackbox":
        model = ConceptBottleneck(num_concepts, num_targets, concept_pool="avg", **BACKBONE)
    model.load_state_dict(state)
    with torch.no_grad():
        output = model.eval()(data.test_images)
    read = read_predictions(run / "test_predictions.csv")
    target_NT = output.logits.sigmoid().numpy()
    assert len(read.kinds["concept"].names) == (0 if kind == "blackbox" else num_concepts)
    results = json.loads((run / "results.json").read_text())
    assert ("concept_auc" in results["summary"]) == bool(results["concepts"]) == (kind != "blackbox")

    csv, images = str(phantom_folder / "labels_test.csv"), str(phantom_folder / "test")
    given = [str(run), "--csv", csv, "--dir", images, "--bootstrap", "5", "--save_predictions"]
    assert evaluate([*given, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for i, name in enumerate(data.test.target_names):
        truth = data.test.target_NT[:, i] == 1
        if truth.any():
            found = record["targets"]["labels"][name]["auroc"]["value"]
            assert found == pytest.approx(roc_auc_score(truth, target_NT[:, i]), abs=1e-5)
    assert (record["concepts"] is None) == (kind == "blackbox") and record["prototypes"] is None
    counted = [record["doubt"][score]["n"] for score in ("sensitivity", "specificity")]
    assert record["novelty"] is None and sum(counted) == len(data.test)
    said = capsys.readouterr()
    assert (
        "Prototypes alive" not in said.out and "statistics of its training images" not in said.out + said.err
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert ('id="concepts"' in page) == (kind != "blackbox") and 'id="prototypes"' not in page
    errors = [row for rows in record["worst_errors"].values() for row in rows]
    assert errors and not any("command" in row for row in errors), "csr explain takes no baseline"
    assert page.count('class="error"') == len(errors)
    assert "csr explain" not in page and "The command explains" not in page
    again = read_predictions(tmp_path / "out" / "test_predictions.csv")
    for part in ("target", "concept"):
        expected_NL = again.kinds[part].probability_NL
        np.testing.assert_allclose(read.kinds[part].probability_NL, expected_NL, atol=1e-5)
    reference = json.loads((run / "reference.json").read_text())
    assert all(reference[name] is None for name in ("absent_medians", "present_medians", "novelty"))
    for part in ("target", "concept"):
        lines = reference[f"{part}_calibration"]
        if part == "concept" and kind == "blackbox":
            assert lines is None and reference["concept_thresholds"] is None
            assert again.kinds[part].names == () and record["calibration"]["concepts"] is None
            continue
        assert set(record["calibration"][f"{part}s"]) == set(lines) == set(read.kinds[part].names)
        p_NL = read.kinds[part].probability_NL.astype(np.float64)
        scale_L, offset_L = ([lines[n][key] for n in read.kinds[part].names] for key in ("scale", "offset"))
        wanted_NL = 1 / (1 + np.exp(-(np.log(p_NL / (1 - p_NL)) * scale_L + offset_L)))
        np.testing.assert_allclose(again.kinds[part].probability_NL, wanted_NL, atol=1e-5)
    boxes = [*given, "--boxes_csv", str(phantom_folder / "boxes_test.csv"), "--out", str(tmp_path / "no")]
    assert run_command(evaluate, boxes) == 2
    assert "is a baseline: omit --boxes_csv" in capsys.readouterr().err
    with pytest.raises(InputError, match="is a baseline, without prototypes to explain"):
        load_model(run)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"baseline": "x"}, "baseline 'x': one of blackbox, cbm"),
        ({"num_classes": 10**6}, "6 target_names|sizes|does not fit|has"),
        ({"backbone_type": "x"}, "unknown backbone_type"),
        ({"image_size": None}, "image_size is 'None'"),
        ({"more": 1}, "missing or unknown: more"),
        ({"baseline": "blackbox"}, "does not fit"),
    ],
)
def test_a_description_that_is_not_the_tensors_is_refused(change, message, runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs["cbm"], folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "logs"))
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_to_evaluate(folder)


def test_baselines_are_compared_with_each_other(runs, tmp_path):
    assert compare([*map(str, runs.values()), "--out", str(tmp_path / "out"), "--bootstrap", "20"]) == 0
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["differences"]["baseline"] == list(runs)
    assert record["kinds"]["concepts"]["groups"][0] is None
    for run, group in zip(runs.values(), record["kinds"]["targets"]["groups"], strict=True):
        summary = json.loads((run / "results.json").read_text())["summary"]
        assert group["macro"]["auroc"]["value"] == pytest.approx(summary["target_auc"], abs=1e-6)


def test_stage_1_of_a_run_is_taken_over_if_its_options_are_the_same(runs, phantom_folder, out):
    again = words(phantom_folder, out, "cbm", *WHOLE, "--from", str(runs["cbm"]), exp_name="taken")
    done = start(Path(sys.executable).name, "-m", "csr", "baseline", "cbm", *again[2:])
    assert done.returncode == 0, done.stderr
    assert "Stage 1: taken over from" in done.stdout and "Stage 1/3" not in done.stdout
    one, other = final_of(runs["cbm"]), final_of(out / "taken")
    assert all(torch.equal(one[name], other[name]) for name in one)
    refused = words(phantom_folder, out, "cbm", *WHOLE, "--stage1_from", str(runs["cbm"]), "--seed", "1")
    failed = train(*refused, "--exp_name", "refused")
    assert failed.returncode == 2 and "other options (--seed was 0, now 1)" in failed.stderr
    other = out.parent / "labels_train.csv"  # the same rows in another order: other images validate
    header, *rows = (phantom_folder / "labels_train.csv").read_text().splitlines()
    other.write_text("\n".join([header, *reversed(rows)]) + "\n")
    given = words(phantom_folder, out, "cbm", *WHOLE, "--stage1_from", str(runs["cbm"]), train_csv=other)
    failed = train(*given, "--exp_name", "refused")
    assert failed.returncode == 2 and "has other images, labels, boxes or another split" in failed.stderr
    missing = train(
        *words(phantom_folder, out, "cbm", "--stage1_from", str(runs["blackbox"]), exp_name="none")
    )
    assert missing.returncode == 2 and "no best_model_stage1.pth in it" in missing.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blackbox", "cbm-joint", "cbm"])
def test_a_frozen_backbone_runs_once_and_the_losses_stay(kind, phantom_folder, out):
    frozen = ("--train_backbone", "none", *WHOLE)
    found = []
    for cache in ("memory", "off"):
        given = words(phantom_folder, out, kind, *frozen, "--cache", cache, exp_name=f"{kind}-{cache}")
        done = train(*given)
        assert done.returncode == 0, done.stderr
        assert ("Features (train): computed, in memory" in done.stdout) == (cache == "memory")
        found.append([line["train_loss"] for line in records(out / f"{kind}-{cache}")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind, step", [("cbm-joint", 7), ("cbm", 18)])
def test_a_killed_run_resumes_to_the_same_bits(kind, step, phantom_folder, out):
    whole = words(phantom_folder, out, kind, "--save_every", "2", exp_name=f"{kind}-whole")
    parted = words(phantom_folder, out, kind, "--save_every", "2", exp_name=f"{kind}-parted")
    finished(*whole)
    assert ended("KILL", STEP, step, *parted).returncode != 0
    assert ": resumes " in finished(*parted).stdout
    one, other = final_of(out / f"{kind}-whole"), final_of(out / f"{kind}-parted")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_ranks_follow_one(phantom_folder, out, runs):
    whole = [word if word != "64" else "32" for word in WHOLE]
    two = words(phantom_folder, out, "cbm-joint", *whole, exp_name="two")
    done = train(*two, launcher="torchrun")
    assert done.returncode == 0, done.stderr
    one, other = (records(run) for run in (runs["cbm-joint"], out / "two"))
    assert [r["train_loss"] for r in other] == pytest.approx([r["train_loss"] for r in one], rel=1e-3)


@pytest.mark.parametrize(
    "more, message",
    [
        (("--num_prototypes", "3"), "--num_prototypes does nothing with --baseline blackbox"),
        (("--boxes_csv", "b.csv"), "--boxes_csv belongs to stage 1"),
        (("--stage1_from", "x"), "--stage1_from is for --baseline cbm"),
    ],
)
def test_flags_without_a_meaning_for_a_baseline_are_refused(more, message):
    from csr.config.flags import parse_train_flags

    with pytest.raises(InputError, match=message):
        parse_train_flags(["--baseline", "blackbox", *more])


def test_an_unknown_kind_is_named_and_help_is_at_hand(capsys):
    from csr.__main__ import dispatch

    assert dispatch(["baseline"]) == 0 and "--from RUN" in capsys.readouterr().out
    assert run_command(dispatch, ["baseline", "black"]) == 2
    assert "no baseline 'black': did you mean blackbox?" in capsys.readouterr().err
