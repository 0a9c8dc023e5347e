"""The phantom: same bytes for a seed, rules, readers, boxes and what each finding looks like."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from csr.data.phantom import DIAGNOSES, FILES, FINDINGS, draw_case, plan_case, write_phantom
from csr.data.phantom.anatomy import Chest
from csr.data.phantom.draw import PAINTERS
from csr.data.phantom.patient import sample_patient
from csr.data.phantom.readers import read_case
from csr.data.phantom.rules import Plan, apply_rules, label, rng_for
from csr.data.phantom.scene import Scene
from csr.data.phantom.writer import encode, image_id_for
from csr.runtime.errors import InputError

DRAWN_LATER = [name for name in PAINTERS if name not in ("Cardiomegaly", "Aortic enlargement", "Emphysema")]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [plan_case(11, split="train", index=index) for index in range(3000)]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "set"
    write_phantom(out, num_train=16, num_test=10, size=64, seed=3)
    return out


def test_the_same_seed_gives_the_same_bytes(phantom: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "again", num_train=16, num_test=10, size=64, seed=3)
    assert digests(tmp_path / "again") == digests(phantom)


def test_image_i_does_not_depend_on_how_many_are_drawn(phantom: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "few", num_train=5, num_test=2, size=64, seed=3)
    all_files, few_files = digests(phantom), digests(tmp_path / "few")
    assert all(few_files[name] == all_files[name] for name in few_files if name.endswith(".png"))
    few_rows = (tmp_path / "few" / "labels_train.csv").read_text().splitlines()
    assert (phantom / "labels_train.csv").read_text().splitlines()[: len(few_rows)] == few_rows


def test_another_seed_or_split_gives_other_patients() -> None:
    first = draw_case(0, split="train", index=0, size=32).image_HW
    for seed, split in ((1, "train"), (0, "test")):
        other = draw_case(seed, split=split, index=0, size=32).image_HW
        assert other.shape != first.shape or not np.allclose(other, first)
    assert image_id_for(0, split="train", index=0) != image_id_for(0, split="test", index=0)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("seed", range(5))
def test_ten_images_hold_every_finding_and_every_diagnosis(split: str, seed: int) -> None:
    cases = [plan_case(seed, split=split, index=index) for index in range(10)]
    assert {name for case in cases for name in case.findings} == set(FINDINGS)
    assert {name for case in cases for name in case.diagnoses} == set(DIAGNOSES)


def test_every_label_is_neither_rare_nor_common(plans: list[Plan]) -> None:
    for name in (*FINDINGS, *DIAGNOSES):
        share = np.mean([name in plan.findings or name in plan.diagnoses for plan in plans])
        assert 0.08 <= share <= 0.30, (name, share)


def test_the_true_findings_nearly_determine_the_diagnoses(plans: list[Plan]) -> None:
    scores = []
    for name in DIAGNOSES:
        truth = [name in plan.diagnoses for plan in plans]
        rule = [
            not plan.findings if name == "No finding" else apply_rules(plan.findings)[name] for plan in plans
        ]
        scores.append(roc_auc_score(truth, rule))
    assert 0.97 <= np.mean(scores) < 1.0
    assert min(scores) > 0.96


def test_no_finding_agrees_with_the_rest_of_its_row(plans: list[Plan]) -> None:
    for plan in plans:
        alone = plan.diagnoses == ("No finding",)
        assert alone == ("No finding" in plan.diagnoses)
        assert not (alone and plan.findings)


@pytest.mark.parametrize(
    ("findings", "diagnoses"),
    [
        ((), ("No finding",)),
        (("Emphysema", "Pneumothorax"), ("COPD",)),
        (("Nodule/Mass",), ("Lung tumor",)),
        (("Nodule/Mass", "Calcification"), ()),
        (("Consolidation",), ("Pneumonia",)),
        (("Consolidation", "Calcification"), ("Tuberculosis",)),
        (("Consolidation", "Cavity"), ("Tuberculosis",)),
        (("ILD",), ("Other disease",)),
        (("Cardiomegaly",), ()),
        (("Cardiomegaly", "Pleural effusion"), ("Other disease",)),
    ],
)
def test_the_table_of_rules(findings: tuple[str, ...], diagnoses: tuple[str, ...]) -> None:
    assert label(findings, noise=None) == diagnoses


def test_readers_disagree_but_merged_by_any_stay_close_to_the_truth(plans: list[Plan]) -> None:
    truth, merged, num_split = [], [], 0
    for index, plan in enumerate(plans):
        rng = rng_for(11, "train", 3, index)
        rows = read_case(plan, boxes=(), width=64, height=64, rng=rng)
        marks = [{*row.findings, *row.diagnoses} for row in rows]
        num_split += any(mark != marks[0] for mark in marks)
        true_marks, any_marks = {*plan.findings, *plan.diagnoses}, set.union(*marks)
        truth.append([name in true_marks for name in (*FINDINGS, *DIAGNOSES)])
        merged.append([name in any_marks for name in (*FINDINGS, *DIAGNOSES)])
    true_NK, any_NK = np.array(truth), np.array(merged)
    assert 0.1 < num_split / len(plans) < 0.5
    assert ((any_NK & true_NK).sum(0) / true_NK.sum(0)).min() > 0.98
    assert ((any_NK & ~true_NK).sum(0) / (~true_NK).sum(0)).max() < 0.03


def test_the_tables_have_the_shape_of_vindr(phantom: Path) -> None:
    train, test = read_rows(phantom / "labels_train.csv"), read_rows(phantom / "labels_test.csv")
    assert list(train[0]) == ["image_id", "rad_id", *FINDINGS, *DIAGNOSES]
    assert list(test[0]) == ["image_id", *FINDINGS, *DIAGNOSES]
    assert [row["rad_id"] for row in train[:3]] == ["R1", "R2", "R3"]
    assert len(train) == 3 * 16 and len(test) == 10
    for split, rows in (("train", train), ("test", test)):
        assert {row["image_id"] for row in rows} == {path.stem for path in (phantom / split).iterdir()}
    for index, row in enumerate(test):
        plan = plan_case(3, split="test", index=index)
        assert {name for name, cell in row.items() if cell == "1"} == {
            *plan.findings,
            *plan.diagnoses,
        }


def test_every_marked_finding_has_a_box_inside_its_picture(phantom: Path) -> None:
    for split in ("train", "test"):
        keys = ["image_id", "rad_id"] if split == "train" else ["image_id"]
        boxes = read_rows(phantom / f"boxes_{split}.csv")
        assert list(boxes[0]) == [*keys, "class_name", "x_min", "y_min", "x_max", "y_max"]
        for box in boxes:
            with Image.open(phantom / split / f"{box['image_id']}.png") as image:
                width, height = image.size
            assert 0 <= float(box["x_min"]) < float(box["x_max"]) <= width
            assert 0 <= float(box["y_min"]) < float(box["y_max"]) <= height
        boxed = {(*(box[key] for key in keys), box["class_name"]) for box in boxes}
        for row in read_rows(phantom / f"labels_{split}.csv"):
            marked = {(*(row[key] for key in keys), name) for name in FINDINGS if row[name] == "1"}
            assert marked == {box for box in boxed if box[:-1] == tuple(row[key] for key in keys)}


def test_pictures_are_a_mixture_of_8_bit_16_bit_and_rgb(phantom: Path) -> None:
    modes = set()
    for path in (phantom / "train").iterdir():
        with Image.open(path) as image:
            modes.add(image.mode)
            if image.mode.startswith("I"):
                assert np.asarray(image).max() > 50000
    assert {"L", "RGB"} < modes and any(mode.startswith("I") for mode in modes)


def test_every_pixel_format_shows_the_same_picture() -> None:
    image_HW = draw_case(0, split="test", index=0, size=32).image_HW
    grey_HW = np.asarray(encode(image_HW, pixel_format="grey8"))
    deep_HW = np.asarray(encode(image_HW, pixel_format="grey16"))
    rgb_HWC = np.asarray(encode(image_HW, pixel_format="rgb"))
    assert np.abs(np.rint(deep_HW / 257.0) - grey_HW).max() <= 1
    assert (rgb_HWC == grey_HW[..., None]).all()


@pytest.mark.parametrize("name", DRAWN_LATER)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_finding_changes_the_picture_inside_its_box_most(name: str, strength: float) -> None:
    rng = rng_for(5, "train", 9)
    patient = sample_patient({}, rng=rng)
    scene = Scene(Chest(patient, shape=(128, 128)), rng=rng)
    before_HW = scene.density()
    PAINTERS[name](scene, strength, rng)
    change_HW = np.abs(scene.density() - before_HW)
    boxed_HW = np.zeros_like(change_HW, dtype=bool)
    for boxed_name, (x0, y0, x1, y1) in scene.boxes:
        assert boxed_name == name
        boxed_HW[int(y0) : int(y1), int(x0) : int(x1)] = True
    assert boxed_HW.any()
    assert change_HW[boxed_HW].mean() > 3 * change_HW[~boxed_HW].mean()
    assert change_HW[boxed_HW].max() > 0.08


def test_findings_of_size_and_shape_act_on_the_patient_alone() -> None:
    normal = sample_patient({}, rng=np.random.default_rng(0))
    sick = dict.fromkeys(("Aortic enlargement", "Cardiomegaly", "Emphysema"), 0.0)
    ill = sample_patient(sick, rng=np.random.default_rng(0))
    assert normal.heart_ratio < 0.5 < ill.heart_ratio
    assert ill.knob > 1.3 * normal.knob
    assert ill.base > normal.base and ill.dome < normal.dome
    for exposure in ("gain", "gamma", "fog", "grain", "bulk", "breast", "zoom", "tilt"):
        assert getattr(ill, exposure) == getattr(normal, exposure)


def test_a_folder_in_use_is_refused_and_overwrite_leaves_strange_files(tmp_path: Path) -> None:
    write_phantom(tmp_path, num_train=3, num_test=1, size=32, seed=0)
    (tmp_path / "train" / "mine.png").write_text("keep")
    before = digests(tmp_path)
    with pytest.raises(InputError, match="--overwrite"):
        write_phantom(tmp_path, num_train=1, num_test=1, size=32, seed=1)
    assert digests(tmp_path) == before
    write_phantom(tmp_path, num_train=1, num_test=1, size=32, seed=1, overwrite=True)
    expected = {f"{split}/{image_id_for(1, split=split, index=0)}.png" for split in ("train", "test")}
    assert set(digests(tmp_path)) == {*FILES, "train/mine.png", *expected}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_phantom(tmp_path / "taken", num_train=1, num_test=1, size=32, seed=0, overwrite=True)
