"""The first stage of another run: taken over where everything that decides it is the same, else refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from label_tables import table_of
from train_options import train_options

from csr.data.labels.summary import data_facts
from csr.data.labels.table import LabelTable
from csr.model.backbones.normalisation import Normalisation
from csr.model.baselines import ConceptBottleneck
from csr.runtime.errors import InputError
from csr.training.checkpoints import first_stage
from csr.training.checkpoints.first_stage import check_normalisation, check_training_data, take_first_stage
from csr.training.inputs import Tables

# one value of each option that decides a first stage, other than its default
DECIDING = {
    **{"train_csv": "other.csv", "train_dir": "other/", "boxes_csv": "boxes.csv"},
    **{"concept_cols": ("a",), "target_cols": ("t",), "reader_merge": "majority", "group_col": "lesion"},
    **{"drop_rare": 3, "val_fraction": 0.2, "folds": 5, "fold": 1, "num_images": 9, "image_size": 128},
    **{"resize": "letterbox", "augment": "none", "on_bad_image": "quarantine"},
    **{"backbone_type": "timm", "model_name": "resnet10t", "backbone_weights": "w.pth"},
    **{"no_pretrained": True, "train_backbone": ("last", "2"), "concept_pool": "max"},
    **{"max_pos_weight": 5.0, "box_weight": 0.3, "lr": 0.5, "epochs_stage1": 3, "backbone_lr_scale": 0.5},
    **{"layer_decay": 0.7, "weight_decay": 0.2, "warmup": 0.1, "progressive": "0.5:0.7"},
    **{"schedule": "constant", "clip": 0.5, "seed": 1},
}
OF_NO_PART = {
    **{"test_csv": "other.csv", "test_dir": "other/", "num_prototypes": 3, "epochs_stage2": 2},
    **{"epochs_stage3": 2, "task_lr_scale": 2.0, "task_loss": "focal", "workers": 1, "track": "mlflow"},
    **{"deterministic": True, "output_dir": "elsewhere", "exp_name": "cbm", "precision": "fp32"},
}
TABLE = table_of([[0, 1], [1, 0], [1, 1]], [[0], [1], [1]])


@pytest.fixture(scope="module")
def model() -> ConceptBottleneck:
    torch.manual_seed(0)
    names = {"backbone_type": "timm", "model_name": "test_resnet", "image_size": 64}
    return ConceptBottleneck(len(TABLE.concept_names), len(TABLE.target_names), concept_pool="avg", **names)


def run_of(folder: Path, model: ConceptBottleneck, changed: dict[str, Any], **record: Any) -> Path:
    """Write what `take_first_stage` reads of a run; `record` replaces parts of its config.json."""
    options = json.loads(json.dumps(train_options(**changed).to_dict()))
    content = {
        "options": options,
        "effective_batch": 16,
        "concept_names": list(TABLE.concept_names),
        "data": {"images": {"train": 1, "val": 1, "unused": 1, "test": 5}},
        "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        **record,
    }
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "results.json").write_text("{}")
    torch.save(model.state_dict(), folder / first_stage.WEIGHTS)
    return folder


def take(model: ConceptBottleneck, folder: Path, **own: Any) -> str:
    return take_first_stage(model, train_options(baseline="cbm", stage1_from=str(folder), **own), TABLE)


def test_every_option_either_decides_the_first_stage_or_has_no_part_in_it():
    names = {name for group in train_options().to_dict().values() for name in group}
    assert set(DECIDING) == names - first_stage.OF_NO_PART - {"cache", "cache_dtype", "cache_views"}
    assert set(OF_NO_PART) <= first_stage.OF_NO_PART <= names


@pytest.mark.parametrize("name", DECIDING)
def test_another_value_of_a_deciding_option_is_refused(name, model, tmp_path):
    more = {"folds": 5, "fold": 0} if name == "fold" else {"fold": 0} if name == "folds" else {}
    changed = {**more, name: DECIDING[name]}
    earlier = {} if name != "fold" else more
    run_of(tmp_path, model, changed)
    assert take(model, tmp_path, **changed) == f"Stage 1: taken over from {tmp_path / first_stage.WEIGHTS}"
    with pytest.raises(InputError, match=rf"its first stage has other options \(.*--{name} was .*, now"):
        take(model, tmp_path, **earlier)


def test_the_best_epoch_so_far_of_a_run_that_goes_on_is_refused(model, tmp_path):
    run_of(tmp_path, model, {})
    (tmp_path / "results.json").unlink()
    with pytest.raises(InputError, match="has no results.json: it has not finished"):
        take(model, tmp_path)


@pytest.mark.parametrize("name", OF_NO_PART)
def test_another_value_of_other_options_is_not(name, model, tmp_path):
    run_of(tmp_path, model, {name: OF_NO_PART[name]})
    assert take(model, tmp_path).startswith("Stage 1: taken over")


def test_tables_may_have_moved_and_a_default_may_be_written_out(model, tmp_path):
    run_of(tmp_path, model, {"train_csv": "here/labels_train.csv", "train_dir": "here/train"})
    own = {"train_csv": "/there/labels_train.csv", "train_dir": "/there/train/", "backbone_lr_scale": 0.1}
    assert take(model, tmp_path, **own).startswith("Stage 1: taken over")


@pytest.mark.parametrize(
    "name, value", [("cache", "off"), ("cache_dtype", "fp16"), ("cache_views", 2)], ids=lambda v: str(v)
)
def test_a_cache_decides_what_a_frozen_backbone_saw_and_no_other_first_stage(name, value, model, tmp_path):
    frozen = {"train_backbone": ("none",)}
    run_of(tmp_path, model, {**frozen, name: value})
    with pytest.raises(InputError, match=f"--{name} was {'off|' if name == 'cache' else ''}{value}, now"):
        take(model, tmp_path, **frozen)
    run_of(tmp_path, model, {name: value})
    assert take(model, tmp_path).startswith("Stage 1: taken over")


def test_where_a_cache_lies_is_of_no_matter(model, tmp_path):
    frozen = {"train_backbone": ("none",)}
    run_of(tmp_path, model, {**frozen, "cache": "disk", "cache_dir": "c"})
    assert take(model, tmp_path, **frozen, cache="memory").startswith("Stage 1: taken over")


def test_batches_are_compared_by_their_product(model, tmp_path):
    run_of(tmp_path, model, {"batch_size": 4}, effective_batch=32)  # 4 images on each of 8 ranks
    assert take(model, tmp_path, batch_size=16, accumulation=2).startswith("Stage 1: taken over")
    with pytest.raises(InputError, match=r"\(images per step were 32, now 16\)"):
        take(model, tmp_path)


def test_another_table_of_the_same_name_is_refused(model, tmp_path):
    run_of(tmp_path, model, {}, data={"images": {"train": 3, "val": 1, "test": 5}})
    with pytest.raises(InputError, match="its training table had 4 images, .* has 3: give the same one"):
        take(model, tmp_path)
    run_of(tmp_path, model, {}, concept_names=["a"])
    with pytest.raises(InputError, match="has other concepts than"):
        take(model, tmp_path)


def test_images_normalised_otherwise_are_refused(model, tmp_path):
    run_of(tmp_path, model, {})
    config = train_options(baseline="cbm", stage1_from=str(tmp_path))
    check_normalisation(config, Normalisation((0.5,) * 3, (0.25,) * 3, "of the timm model"))
    check_normalisation(train_options(), Normalisation())
    with pytest.raises(InputError, match=r"by mean 0.5 0.5 0.5, these by 0.485 0.456 0.406 \(ImageNet\)"):
        check_normalisation(config, Normalisation())
    with pytest.raises(InputError, match=r"by std 0.25 0.25 0.25, these by 0.5 0.5 0.5"):
        check_normalisation(config, Normalisation((0.5,) * 3, (0.5,) * 3))
    run_of(tmp_path, model, {}, preprocessing={"mean": ["a"], "std": [1, 1, 1]})
    with pytest.raises(InputError, match="no mean of three channels in 'preprocessing'"):
        check_normalisation(config, Normalisation())


def tables_of(
    table: LabelTable, train: Sequence[int] = (0, 1), val: Sequence[int] = (2,), *, test: LabelTable = TABLE
) -> Tables:
    return Tables(table, test, [], [], np.array(train), np.array(val), None)


def checked(folder: Path, tables: Tables) -> list[str]:
    """Return the lines that are said of a first stage whose run is taken."""
    lines: list[str] = []
    check_training_data(train_options(baseline="cbm", stage1_from=str(folder)), tables, lines.append)
    return lines


def recorded(table: LabelTable) -> dict[str, Any]:
    """Return what a run of rows 0 and 1, validated on row 2, records of its data."""
    facts = data_facts(table, TABLE, train_indices=[0, 1], val_indices=[2])
    return {"data": json.loads(json.dumps(facts))}


LABELS = table_of([[0, 1], [1, 0], [1, 0]], [[0], [1], [1]])
OTHERS = {
    "labels": tables_of(LABELS),
    "images": tables_of(replace(TABLE, image_ids=("i0", "i1", "j2"))),
    "order": tables_of(replace(TABLE, image_ids=("i2", "i1", "i0"))),
    "split": tables_of(TABLE, (0, 2), (1,)),
    "fewer images": tables_of(TABLE, (0,), (2,)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_table_of_the_same_name_and_size_with_other_content_or_split_is_refused(name, model, tmp_path):
    run_of(tmp_path, model, {}, training_fingerprint=tables_of(TABLE).training_fingerprint())
    assert checked(tmp_path, tables_of(TABLE)) == []
    with pytest.raises(InputError, match="t.csv has other images, labels, boxes or another split"):
        checked(tmp_path, OTHERS[name])


def test_another_test_set_is_no_matter_to_the_first_stage(model, tmp_path):
    run_of(tmp_path, model, {}, training_fingerprint=tables_of(TABLE).training_fingerprint())
    assert checked(tmp_path, tables_of(TABLE, test=table_of([[1, 1]], [[0]]))) == []


def test_of_an_older_run_what_it_counted_is_compared_and_the_rest_said(model, tmp_path):
    run_of(tmp_path, model, {}, **recorded(TABLE))
    (line,) = checked(tmp_path, tables_of(TABLE))
    assert line.startswith(f"Notice: {tmp_path} recorded no hash") and "could not be checked" in line
    for name in ("labels", "split", "fewer images"):
        with pytest.raises(InputError, match="t.csv has other images, labels, boxes or another split"):
            checked(tmp_path, OTHERS[name])
    run_of(tmp_path, model, {}, data={"images": 3, "labels": [1]})
    assert len(checked(tmp_path, tables_of(TABLE))) == 1


def test_without_a_first_stage_of_another_run_nothing_is_checked():
    check_training_data(train_options(), tables_of(TABLE), pytest.fail)
