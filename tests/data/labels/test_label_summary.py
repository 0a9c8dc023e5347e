"""Facts about the data in config.json and in the model's card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_model import tiny_model, write_run

from csr.data.labels.summary import data_facts, read_origin
from csr.data.labels.table import read_label_table
from csr.model.sharing.loading import load_run
from csr.model.sharing.readme import write_readme

TRAIN = """image_id,rad_id,patient_id,Opacity,Nodule,Pneumonia
a,R1,p1,1,,0
a,R2,p1,0,,1
b,R1,p2,0,1,0
c,R1,,0,0,0
"""
TEST = "image_id,patient_id,Opacity,Nodule,Pneumonia\nx,p9,1,0,\n"


@pytest.fixture
def facts(tmp_path: Path) -> dict:
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "test.csv").write_text(TEST)
    (tmp_path / "csr_dataset.json").write_text(
        json.dumps({"format": "csr-dataset", "dataset": "Lungs | 1.0", "x": 1})
    )
    train = read_label_table(tmp_path / "train.csv")
    test = read_label_table(tmp_path / "test.csv", vocabulary=train)
    return data_facts(train, test, train_indices=[0, 2], val_indices=[1])


def test_facts_are_counted_by_split_and_name_no_image_or_patient(facts):
    assert facts == {
        "dataset": "Lungs | 1.0",
        "images": {"train": 2, "val": 1, "test": 1},
        "readers_per_image": {"train": 1.5, "val": 1.0, "test": 1.0},
        "patients": {"train": 1, "val": 1, "test": 1},
        "labels": {
            "Opacity": {
                "kind": "concept",
                "train": {"positive": 1, "annotated": 2},
                "val": {"positive": 0, "annotated": 1},
                "test": {"positive": 1, "annotated": 1},
            },
            "Nodule": {
                "kind": "concept",
                "train": {"positive": 0, "annotated": 1},
                "val": {"positive": 1, "annotated": 1},
                "test": {"positive": 0, "annotated": 1},
            },
            "Pneumonia": {
                "kind": "target",
                "train": {"positive": 1, "annotated": 2},
                "val": {"positive": 0, "annotated": 1},
                "test": {"positive": 0, "annotated": 0},
            },
        },
    }
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_the_card_names_the_data_its_counts_and_prevalence(facts, tmp_path):
    run = write_run(tmp_path / "run", tiny_model())
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "data": facts}))
    model = load_run(run)
    text = write_readme(model.card, model.description())
    assert "| dataset | Lungs \\| 1.0 |" in text and "| images | 2 train, 1 val, 1 test |" in text
    assert "| Opacity | concept | 1 of 2 (50.0%) | 0 of 1 (0.0%) | 1 of 1 (100.0%) |" in text
    assert "| Pneumonia | target | 1 of 2 (50.0%) | 0 of 1 (0.0%) | not annotated |" in text
    assert torch.is_tensor(model.card.target_threshold_T)


@pytest.mark.parametrize(
    "labels",
    [{"a": 1}, {"a": {"kind": ["x"], "train": {"positive": "1"}}}, ["a"], "a", {"<b>": {"train": None}}],
)
def test_hostile_facts_do_not_break_the_card(labels, tmp_path):
    run = write_run(tmp_path / "run", tiny_model())
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(
        json.dumps({**config, "data": {"labels": labels, "images": {"train": [1]}}})
    )
    model = load_run(run)
    assert "<b>" not in write_readme(model.card, model.description())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": "other", "dataset": "x"}',
        '{"format": "csr-dataset", "dataset": 1}',
        "x" * 70_000,
    ],
)
def test_another_programs_file_of_that_name_is_ignored(tmp_path, text):
    (tmp_path / "csr_dataset.json").write_text(text)
    assert read_origin(tmp_path) == {}
