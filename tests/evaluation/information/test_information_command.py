"""`csr evaluate RUN --information`: the run's own training images, its own split, the same probes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from tiny_model import CONCEPTS, TARGETS, K, M, tiny_card, tiny_model, write_run

from csr.cli.evaluate import main
from csr.cli.exit_codes import run_command
from csr.data.image_cache.store import open_store
from csr.data.labels.table import read_label_table
from csr.data.labels.vocabulary import Vocabulary
from csr.data.training_split import split_training
from csr.evaluation.information.probe import probe

NUM = {"train": 60, "test": 30}
LIMITED = 40  # --num_images of the run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("information"), np.random.default_rng(2)
    for split, number in NUM.items():
        (folder / split).mkdir()
        with open(folder / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image_id", *CONCEPTS, *TARGETS])
            for i in range(number):
                pixels = draw.integers(0, 256, (40, 40), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / f"{split}{i}.png")
                table.writerow([f"{split}{i}", *draw.integers(0, 2, K + len(TARGETS))])
    run = write_run(folder / "run", tiny_model())
    config = json.loads((run / "config.json").read_text())
    config["options"] = {
        "data": {
            "train_csv": str(folder / "train.csv"),
            "train_dir": str(folder / "train"),
            "val_fraction": 0.25,
            "num_images": LIMITED,
        },
        "engine": {"seed": 3},
    }
    (run / "config.json").write_text(json.dumps(config))
    return folder


def words(data: Path, out: Path, *more: str) -> list[str]:
    named = {"csv": data / "test.csv", "dir": data / "test", "out": out, "bootstrap": 10, "workers": 1}
    return [str(data / "run"), *(word for k, v in named.items() for word in (f"--{k}", str(v))), *more]


def test_probes_are_fitted_on_the_runs_training_images(data, tmp_path, capsys):
    assert main(words(data, tmp_path / "out", "--information")) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["information"]
    features, labels = {}, {}
    for split, number in NUM.items():
        table = read_label_table(data / f"{split}.csv", vocabulary=Vocabulary(CONCEPTS, TARGETS))
        paths = [data / split / f"{name}.png" for name in table.image_ids]
        store = open_store(paths, size=72, cache_dir=None, workers=1)
        with torch.no_grad():
            output = tiny_model()(tiny_card().preprocessing.transform()(store.batch(range(number))))
        features[split] = output.similarity_scores.flatten(1).double().numpy()
        labels[split] = table.target_NT
        if split == "train":
            train, val = split_training(table, fraction=0.25, seed=3, num_images=LIMITED)
    assert found["images"] == {"train": LIMITED, "val": len(val)}
    probed = probe(
        features["train"][train],
        labels["train"][train],
        val_NF=features["train"][val],
        val_target_NT=labels["train"][val],
        test_NF=features["test"],
    )
    row = found["probes"]["prototype scores"]
    assert (row["features"], row["strength"]) == (K * M, probed.strength)
    for t, name in enumerate(TARGETS):
        expected = roc_auc_score(labels["test"][:, t], probed.score_NT[:, t])
        assert row["labels"][name]["value"] == pytest.approx(expected, abs=0.01)
    printed = capsys.readouterr().out
    assert "Information on the diagnoses: macro AUROC of a linear probe" in printed
    assert "Leakage of concept logits: " in printed and "beyond true concepts" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Information of concepts" in page and "prototype scores beyond true concepts" in page
    rows = list(csv.DictReader((tmp_path / "out" / "evaluation.csv").open()))
    (macro,) = (
        r
        for r in rows
        if (r["part"], r["group"], r["label"]) == ("information", "concept logits", "macro")
        and r["score"] == "leakage beyond true concepts"
    )
    assert float(macro["value"]) == found["leakage"]["concept logits"]["beyond_true"]["macro"]["value"]


def test_what_has_no_training_images_is_refused(data, tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    given = words(data, tmp_path / "out", "--information")
    assert run_command(main, [str(tmp_path / "model"), *given[1:]]) == 2
    assert "is no run: --information fits on the images that a run was trained on" in capsys.readouterr().err
    assert run_command(main, words(data, tmp_path / "out", "--train_csv", "x.csv")) == 2
    assert "--train_csv and --train_dir are for --information" in capsys.readouterr().err
    assert run_command(main, [*given, "--train_csv", str(tmp_path / "gone.csv")]) == 2
    assert "gone.csv: no such file: give the run's training labels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
