"""`csr refine`: the folder that it writes, what it prints, and every command that takes it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refined_models import dropping, every_row, keep_file
from sklearn.metrics import roc_auc_score
from tiny_model import CONCEPTS, OPTIONS, TARGETS, K, M, T, tiny_model, write_run
from train_command import contents

from csr.cli.atlas import main as atlas
from csr.cli.evaluate import main as evaluate
from csr.cli.explain import main as explain
from csr.cli.export import main as export
from csr.cli.predict import main as predict
from csr.cli.refine import main
from csr.data.images.resize import resize_file
from csr.data.labels.table import read_label_table
from csr.data.training_split import split_training
from csr.evaluation.bootstrap import drawn_images
from csr.explain.refine.fit import fit_head
from csr.explain.refine.validation_loss import MOST_LOST, loss_lines
from csr.model import CSR
from csr.model.sharing.loading import load_model
from csr.runtime.errors import InputError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and test images with the tiny model's labels, and boxes on the test images."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(5)
    for split, number in (("train", 24), ("test", 10)):
        (folder / split).mkdir()
        rows, boxes = [], []
        for i in range(number):
            pixels = rng.integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{split}{i}.png")
            rows.append([f"{split}{i}", i % 2, i // 2 % 2, i % 3 // 2, i // 3 % 2, i % 2])
            boxes += [[f"{split}{i}", "Cavity", 0, 0, 32, 32]] if i % 2 else []
        tables = {
            "labels": [["image_id", *CONCEPTS, *TARGETS], *rows],
            "boxes": [["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"], *boxes],
        }
        for name, lines in tables.items():
            with open(folder / f"{name}_{split}.csv", "w", newline="") as file:
                csv.writer(file).writerows(lines)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "r", tiny_model())
    config = json.loads((folder / "config.json").read_text())
    files = {
        f"{part}_{kind}": str(data / (f"labels_{part}.csv" if kind == "csv" else part))
        for part in ("train", "test")
        for kind in ("csv", "dir")
    }
    config["options"]["data"] = {**files, "val_fraction": 0.25, "target_cols": list(TARGETS), "workers": 1}
    config["options"]["optim"] = {"epochs_stage3": 3, "lr": 1e-2}
    (folder / "config.json").write_text(json.dumps({**config, "effective_batch": 8}))
    return folder


@pytest.fixture(scope="module")
def refined(run, data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prototypes of Cavity and all of Nodule/Mass rejected."""
    folder = tmp_path_factory.mktemp("refined")
    rejected = [(0, 1), (0, 2), *((1, m) for m in range(M))]
    keep = keep_file(folder / "keep.csv", *every_row(*rejected))
    before = contents(run)
    words = [
        str(run),
        "--keep",
        str(keep),
        "--out",
        str(folder / "out"),
        "--workers",
        "1",
        "--bootstrap",
        "20",
    ]
    assert main([*words, "--boxes_csv", str(data / "boxes_test.csv")]) == 0
    assert contents(run) == before, "the run stays as it was"
    return folder / "out"


def test_the_refined_model_has_only_what_was_kept(refined, run):
    model = CSR.from_pretrained(refined)
    kept = ~dropping((0, 1), (0, 2), *((1, m) for m in range(M)))
    assert torch.equal(model.prototypes.kept_KM, kept)
    weight = model.task_head.linear.weight.unflatten(1, (K, M))
    assert (weight[:, ~kept] == 0).all() and (weight[:, kept] != 0).all()
    reference = model.card.reference
    assert (reference.absent_KM[~kept] == 0).all()
    assert len(reference.target_calibration_T) == T, "of the new head"
    assert reference.concept_calibration_K is None, "concepts are as before"
    assert reference.doubt is None, "too few wrong validation images to choose the new head's rule"
    assert "Nodule/Mass" in model.card.provenance["refined"]["dropped"]
    state = torch.load(refined / "refined_model.pth", weights_only=True)
    old = torch.load(run / "best_model_stage3.pth", weights_only=True)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in old.items()}
    changed = {key for key in state if not torch.equal(state[key], old[key])}
    assert changed == {"prototypes.proto_KMD", "task_head.linear.weight", "task_head.linear.bias"}
    CSR(K, T, M, **OPTIONS).load_state_dict(state)


def test_before_and_after_are_what_evaluate_measures_of_both_models(refined, run, data, tmp_path):
    record = json.loads((refined / "refine.json").read_text())
    for side, model in (("before", run), ("after", refined)):
        out = tmp_path / side
        words = ["--csv", str(data / "labels_test.csv"), "--dir", str(data / "test"), "--bootstrap", "20"]
        words += ["--boxes_csv", str(data / "boxes_test.csv"), "--workers", "1"]
        assert evaluate([str(model), *words, "--out", str(out)]) == 0
        found = json.loads((out / "evaluation.json").read_text())
        for part in ("targets", "localisation", "prototypes"):
            assert record[side][part] == found[part]
    assert record["after"]["prototypes"]["total"] == record["kept"] == 6
    assert record["dropped"] == {"Cavity": [1, 2], "Nodule/Mass": [0, 1, 2, 3]}
    assert len(record["fit"]["history"]) == 3 and record["head"] == "refit"
    assert set(record["remaining_reliance"]["r2"]) == {"Cavity", "Nodule/Mass"}


def test_decisions_are_split_into_fixed_and_broken_with_paired_differences(refined, run, data):
    record = json.loads((refined / "refine.json").read_text())
    images = [resize_file(data / "test" / f"test{i}.png", 72).pixels_CSS for i in range(10)]
    stored = torch.from_numpy(np.stack(images))
    label = read_label_table(data / "labels_test.csv", target_cols=TARGETS).target_NT
    probability, called = {}, {}
    for side, model in (("before", load_model(str(run))), ("after", CSR.from_pretrained(refined))):
        with torch.no_grad():
            logits = model(model.card.preprocessing.transform()(stored)).logits
        probability[side] = model.card.probability(logits).numpy()
        called[side] = model.card.called(torch.from_numpy(probability[side])).numpy()
    right = {side: called[side] == (label >= 0.5) for side in called}
    changes = record["changes"]
    assert changes["fixed"] == int((~right["before"] & right["after"]).sum())
    assert changes["broken"] == int((right["before"] & ~right["after"]).sum())
    assert changes["fixed"] + changes["broken"] == record["changed_decisions"] > 0
    found = changes["differences"]
    auc = {side: roc_auc_score(label, value, average="macro") for side, value in probability.items()}
    assert found["auroc"]["value"] == pytest.approx(auc["after"] - auc["before"])
    slow = []
    for r in range(20):
        some = drawn_images(10, r, seed=0)
        scores = {
            side: np.mean(
                [
                    roc_auc_score(label[some, t], value[some, t])
                    for t in range(T)
                    if 0 < label[some, t].mean() < 1
                ]
            )
            for side, value in probability.items()
        }
        slow.append(scores["after"] - scores["before"])
    limits = [found["auroc"]["low"], found["auroc"]["high"]]
    np.testing.assert_allclose(limits, np.quantile(slow, [0.025, 0.975]), atol=1e-6)
    assert set(record["validation"]["before"]) == {"auroc", "f1_at_threshold"}


def test_the_network_sees_every_test_image_once(run, data, tmp_path, monkeypatch):
    seen: list[int] = []
    features = CSR.features
    monkeypatch.setattr(CSR, "features", lambda self, image: seen.append(len(image)) or features(self, image))
    keep = keep_file(tmp_path / "keep.csv", *every_row((0, 0)))
    words = [str(run), "--keep", str(keep), "--workers", "1", "--bootstrap", "0"]
    words += ["--cache_dir", str(tmp_path / "scores")]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    seen.clear()
    assert main([*words, "--out", str(tmp_path / "two")]) == 0
    assert sum(seen) == 10, (
        "training and validation scores are kept, test images are seen once for both models"
    )


def test_a_loss_beyond_what_is_stated_is_warned_of_with_both_numbers():
    def record(auroc: float, low: float, high: float) -> dict:
        sides = {
            when: {"macro": {name: {"value": value} for name in MOST_LOST}}
            for when, value in (("before", 0.9), ("after", 0.8))
        }
        change = {"value": -0.1, "low": low, "high": high}
        none = {"value": 0.0, "low": None, "high": None}
        return {
            **{when: {"targets": targets} for when, targets in sides.items()},
            "validation": {
                "images": 55,
                "before": {"auroc": 0.95, "f1_at_threshold": None},
                "after": {"auroc": auroc, "f1_at_threshold": 0.1},
            },
            "changes": {"differences": {"auroc": none, "f1_at_threshold": change}},
        }

    assert loss_lines(record(0.945, -0.2, 0.01), head="keep") == [], "little on validation, chance on test"
    (line,) = loss_lines(record(0.93, -0.2, 0.01), head="occlude")
    assert "--head occlude" in line and "macro AUROC of 55 validation images from 0.950 to 0.930" in line
    (line,) = loss_lines(record(0.95, -0.2, -0.05), head="refit")
    assert "macro F1 at threshold of the test images from 0.900 to 0.800 (-0.200 to -0.050)" in line


def test_the_head_can_be_kept(run, data, tmp_path, capsys):
    keep = keep_file(tmp_path / "keep.csv", *every_row((0, 1), *((1, m) for m in range(M))))
    words = [
        str(run),
        "--keep",
        str(keep),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
        "--bootstrap",
        "0",
    ]
    with pytest.raises(InputError, match="--epochs, --lr: with --head keep no head is fitted"):
        main([*words, "--head", "keep", "--epochs", "3", "--lr", "0.1"])
    assert main([*words, "--head", "keep"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "Head: kept",
        "Remaining reliance: kept scores",
        "have nothing in the column 'vector'",
        "its images count as misses in the pointing game",
    ):
        assert line in printed
    record = json.loads((tmp_path / "out" / "refine.json").read_text())
    assert record["head"] == "keep" and record["fit"] == {"epoch": None, "history": []}
    old, new = load_model(str(run)), CSR.from_pretrained(tmp_path / "out")
    kept = new.prototypes.kept_KM.flatten()
    assert torch.equal(new.task_head.linear.weight[:, kept], old.task_head.linear.weight[:, kept])
    assert (new.task_head.linear.weight[:, ~kept] == 0).all() and new.card.provenance["refined"][
        "head"
    ] == "keep"


def exported(run, folder, *, with_seed):
    assert export([str(run), str(folder)]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert "seed" not in config["data"], "that run's options name none"
    config["data"] |= {"seed": 0} if with_seed else {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["run", "model", "model without a seed"])
def test_a_seed_changes_the_split_only_where_nobody_knows_the_one_of_the_training(
    kind, run, data, tmp_path, monkeypatch
):
    """Images that trained a model never validate it: the split of a run is not for a flag to change."""
    validated, fitted = [], []

    def spied_split(*args, **options):
        parts = split_training(*args, **options)
        validated.append(parts[1].tolist())
        return parts

    def spied_fit(*args, options, **more):
        fitted.append(options.seed)
        return fit_head(*args, options=options, **more)

    monkeypatch.setattr("csr.explain.source.split_training", spied_split)
    monkeypatch.setattr("csr.explain.refine.refine.fit_head", spied_fit)
    known = kind != "model without a seed"
    source = run if kind == "run" else exported(run, tmp_path / "model", with_seed=known)
    words = [str(source), "--keep", str(keep_file(tmp_path / "keep.csv", *every_row((0, 1))))]
    for split in ("train", "test"):
        prefix = "" if split == "train" else "test_"
        words += [f"--{prefix}csv", str(data / f"labels_{split}.csv"), f"--{prefix}dir", str(data / split)]
    words += ["--workers", "1", "--bootstrap", "0", "--epochs", "1"]
    for seed in ("", "5"):
        given = ["--seed", seed] if seed else []
        assert main([*words, "--out", str(tmp_path / f"out{seed}"), *given]) == 0
    assert fitted == [0, 5], "of the order, in any case"
    first, second = validated
    assert first and (first == second) == known
    head_kept = [*words[:-2], "--head", "keep", "--seed", "5", "--out", str(tmp_path / "kept")]
    if known:
        with pytest.raises(InputError, match="--seed 5: .* says how its images were split.*: omit it"):
            main(head_kept)
    else:
        assert main(head_kept) == 0 and validated[2] == second


def test_an_atlas_fits_its_model_and_refined_ones_and_no_other(refined, run, data, tmp_path):
    flags = [
        "--csv",
        str(data / "labels_train.csv"),
        "--dir",
        str(data / "train"),
        "--workers",
        "1",
        "--top",
        "1",
    ]
    made, other = tmp_path / "atlas", tmp_path / "other"
    assert atlas([str(run), *flags, "--out", str(made)]) == 0
    stranger = tiny_model()
    with torch.no_grad():
        stranger.prototypes.proto_KMD += 0.01
    stranger.save_pretrained(other)
    image = [str(data / "test" / "test1.png"), "--atlas", str(made)]
    assert explain([str(refined), *image, "--out", str(tmp_path / "a")]) == 0
    with pytest.raises(InputError, match="nearest.json: belongs to another model"):
        explain([str(other), *image, "--out", str(tmp_path / "b")])
    test = ["--test_csv", str(data / "labels_test.csv"), "--test_dir", str(data / "test"), "--bootstrap", "0"]
    with pytest.raises(InputError, match="keep.csv: belongs to another model"):
        main([str(other), "--keep", str(made / "keep.csv"), *flags[:-2], *test, "--out", str(tmp_path / "c")])


def test_every_command_takes_the_refined_folder(refined, data, tmp_path):
    image = str(data / "test" / "test1.png")
    flags = ["--csv", str(data / "labels_train.csv"), "--dir", str(data / "train"), "--workers", "1"]
    assert atlas([str(refined), *flags, "--out", str(tmp_path / "atlas"), "--top", "2"]) == 0
    record = json.loads((tmp_path / "atlas" / "atlas.json").read_text())
    assert [len(concept["prototypes"]) for concept in record["concepts"]] == [2, 0, 4]
    assert "dropped before: 0, 1, 2, 3" in (tmp_path / "atlas" / "concept_001.html").read_text()
    out = tmp_path / "explained"
    assert explain([str(refined), image, "--out", str(out), "--atlas", str(tmp_path / "atlas")]) == 0
    concept = json.loads((out / "explanation.json").read_text())["concepts"][1]
    assert concept["best_prototype"] is None and set(concept["contribution"].values()) == {0.0}
    assert predict([str(refined), image, "--out", str(tmp_path / "p.csv")]) == 0
    assert export([str(refined), str(tmp_path / "exported")]) == 0
    assert torch.equal(
        CSR.from_pretrained(tmp_path / "exported").prototypes.kept_KM,
        CSR.from_pretrained(refined).prototypes.kept_KM,
    )
    test = ["--test_csv", str(data / "labels_test.csv"), "--test_dir", str(data / "test"), "--bootstrap", "0"]
    again = [str(refined), "--keep", str(tmp_path / "atlas" / "keep.csv"), *flags, *test, "--epochs", "2"]
    assert main([*again, "--out", str(tmp_path / "twice")]) == 0


def test_scores_are_computed_once_for_every_keep_csv(refined, run, tmp_path, capsys):
    keep = keep_file(tmp_path / "keep.csv", *every_row((2, 2)))
    words = [
        str(run),
        "--keep",
        str(keep),
        "--workers",
        "1",
        "--bootstrap",
        "0",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "Scores (train): read from" in printed and "Scores (validation): read from" in printed
    assert "1 of 12 prototypes are dropped" in printed and "AUROC, macro" in printed


def test_the_model_itself_and_folders_in_use_are_not_written_to(run, refined, tmp_path):
    keep = str(keep_file(tmp_path / "keep.csv", *every_row((0, 0))))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("x")
    for more, message in (
        (("--out", str(run), "--overwrite"), "the model itself"),
        (("--out", str(refined)), "not empty"),
        (("--out", str(tmp_path / "thesis"), "--overwrite"), "holds other files than a refined model"),
        (("--epochs", "0"), "epochs"),
        (("--lr", "-1"), "--lr"),
        (("--checkpoint", "nothing.pth"), "no such"),
    ):
        with pytest.raises(InputError, match=message):
            main([str(run), "--keep", keep, *more])
    with pytest.raises(InputError, match="is no run: give its data"):
        main([str(refined), "--keep", str(refined / "keep.csv"), "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists() and not run.with_name("r_refined").exists()
