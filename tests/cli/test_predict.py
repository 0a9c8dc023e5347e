"""`csr predict`: the evaluation path's probabilities for any batch size; unreadable images are reported."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_pictures import dicom
from PIL import Image
from tiny_model import CONCEPTS, TARGETS, tiny_model, with_novelty

from csr.cli.predict import main
from csr.data.image_cache.store import open_store
from csr.data.images.collect import gather_images
from csr.data.transforms import EvalTransform
from csr.evaluation.predict import predict_files
from csr.model.sharing.reference import Reference
from csr.runtime.errors import InputError


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model().save_pretrained(tmp_path_factory.mktemp("model")))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Grey, colour and one in a folder below; sizes differ."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    draw = np.random.default_rng(0)
    shapes = {"a.png": (50, 80), "b.png": (90, 40, 3), "below/c.JPG": (64, 64), "d.png": (9, 9)}
    for name, shape in shapes.items():
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@torch.no_grad()
def test_probabilities_are_those_of_the_evaluation_path(model_folder, images, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert main([model_folder, str(images), "--out", str(out), "--batch_size", "3"]) == 0
    paths = [images / name for name in ("a.png", "b.png", "below/c.JPG", "d.png")]
    store = open_store(paths, size=72, cache_dir=None, workers=1)
    model = tiny_model()
    output = model(EvalTransform(64)(store.batch(range(4))))
    rows = lines(out)
    assert [row["image"] for row in rows] == [str(p) for p in paths]
    for b, row in enumerate(rows):
        assert list(row["diagnoses"]) == list(TARGETS) and list(row["concepts"]) == list(CONCEPTS)
        np.testing.assert_allclose(list(row["diagnoses"].values()), output.logits[b].sigmoid(), atol=1e-6)
        concept_K = output.concept_logits[b].sigmoid()
        np.testing.assert_allclose(list(row["concepts"].values()), concept_K, atol=1e-6)
        thresholds = dict(zip(TARGETS, (0.3, 0.7), strict=True))
        assert row["present"] == [n for n, p in row["diagnoses"].items() if p >= np.float32(thresholds[n])]
        first, second = sorted(row["diagnoses"].values(), reverse=True)
        assert row["gap"] == pytest.approx(first - second) and row["needs_doctor"] == (row["gap"] < 0.3)
    assert "4 images predicted" in capsys.readouterr().out


def test_the_batch_size_changes_nothing(images):
    model = tiny_model()
    paths = sorted(images.rglob("*.png"))
    one, all_at_once = (list(predict_files(model, paths, batch_size=size, workers=1)) for size in (1, 16))
    for row, other in zip(one, all_at_once, strict=True):
        assert row["image"] == other["image"]
        assert list(row["diagnoses"].values()) == pytest.approx(list(other["diagnoses"].values()), abs=1e-6)


def test_unreadable_images_are_listed_in_place_and_the_rest_is_predicted(
    model_folder, images, tmp_path, capsys
):
    (images / "b2.png").write_bytes(b"junk")
    gone = tmp_path / "gone.png"
    out = tmp_path / "out.csv"
    assert main([model_folder, str(gone), str(images), "--out", str(out), "--batch_size", "2"]) == 1
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["gone.png", "a.png", "b.png", "b2.png", "c.JPG", "d.png"]
    assert [Path(row["image"]).name for row in rows] == names
    assert [bool(row["error"]) for row in rows] == [True, False, False, True, False, False]
    assert rows[0][f"diagnosis {TARGETS[0]}"] == "" and float(rows[1][f"diagnosis {TARGETS[0]}"]) > 0
    assert list(rows[0])[8:] == [f"diagnosis {n}" for n in TARGETS] + [f"concept {n}" for n in CONCEPTS]
    printed = capsys.readouterr().out
    assert "4 images predicted" in printed and "2 could not be read" in printed and str(gone) in printed


def test_dicom_files_without_a_suffix_are_found_and_other_files_counted(images, tmp_path, capsys):
    lines: list[str] = []
    for name in ("IM000000", "1.2.840.5", "DICOMDIR", "below/IM1"):
        (images / name).write_bytes(bytes(128) + b"DICM")
    (images / "empty").write_bytes(b"")
    os.mkfifo(images / "pipe")
    found = gather_images([images], report=lines.append)
    names = ["1.2.840.5", "IM000000", "a.png", "b.png", "below/IM1", "below/c.JPG", "d.png"]
    assert found == [images / name for name in names]
    assert lines == [f"4 other files in {images} omitted"]


def test_linked_folders_are_named_or_followed_where_allowed_each_once(images, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (images / "d.png").rename(elsewhere / "deep" / "e.png")
    (elsewhere / "back").symlink_to(images)
    (elsewhere / "round").symlink_to(elsewhere)
    (images / "batch").symlink_to(elsewhere)
    (images / "twin").symlink_to(images / "below")
    lines: list[str] = []
    inside = [images / name for name in ("a.png", "b.png", "below/c.JPG")]
    assert gather_images([images], report=lines.append) == inside
    linked = [line for line in lines if "1 sub-folder is a link and not followed" in line]
    assert (
        len(linked) == 1 and str(images / "batch") in linked[0] and f"--links_into {elsewhere}" in linked[0]
    )
    found = gather_images([images], links_into=[str(tmp_path)])
    assert found == [*inside[:2], images / "batch" / "deep" / "e.png", inside[2]]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "batch").symlink_to(elsewhere)
    with pytest.raises(InputError, match="no image in it .*not followed .*--links_into"):
        gather_images([tmp_path / "only"])


def test_nothing_is_written_where_no_named_path_exists(model_folder, tmp_path):
    with pytest.raises(InputError, match="nope.*; .*nada.*: no such file or folder"):
        main([model_folder, str(tmp_path / "nope"), str(tmp_path / "nada"), "--out", str(tmp_path / "p.csv")])
    assert list(tmp_path.iterdir()) == []


def test_csv_and_json_lines_hold_the_same_values(model_folder, images, tmp_path):
    for name in ("out.csv", "out.jsonl"):
        main([model_folder, str(images), "--out", str(tmp_path / name)])
    with open(tmp_path / "out.csv", newline="") as file:
        for row, record in zip(csv.DictReader(file), lines(tmp_path / "out.jsonl"), strict=True):
            assert row["image"] == record["image"] and row["present"] == ";".join(record["present"])
            assert {n: float(row[f"diagnosis {n}"]) for n in TARGETS} == record["diagnoses"]
            assert {n: float(row[f"concept {n}"]) for n in CONCEPTS} == record["concepts"]


def test_contributions_and_the_base_sum_to_the_logit_in_both_formats(model_folder, images, tmp_path):
    for name in ("out.csv", "out.jsonl"):
        assert main([model_folder, str(images), "--out", str(tmp_path / name), "--contributions"]) == 0
    with open(tmp_path / "out.csv", newline="") as file:
        pairs = list(zip(csv.DictReader(file), lines(tmp_path / "out.jsonl"), strict=True))
    assert len(pairs) == 4
    for row, record in pairs:
        for n in TARGETS:
            one = record["contributions"][n]
            assert one["base"] + sum(one["concepts"].values()) == pytest.approx(one["logit"], abs=1e-5)
            assert 1 / (1 + np.exp(-one["logit"])) == pytest.approx(record["diagnoses"][n], abs=1e-6)
            assert float(row[f"base {n}"]) == one["base"] and float(row[f"logit {n}"]) == one["logit"]
            assert {c: float(row[f"contribution {c} to {n}"]) for c in CONCEPTS} == one["concepts"]


def test_contributions_of_a_model_without_medians_come_with_a_notice(images, tmp_path, capsys):
    model = tiny_model()
    model.card = dataclasses.replace(model.card, reference=Reference())
    folder = str(model.save_pretrained(tmp_path / "other"))
    for flags in ([], ["--contributions"]):
        main([folder, str(images), "--out", str(tmp_path / "out.csv"), "--overwrite", *flags])
        assert ("has no absent medians" in capsys.readouterr().err) == bool(flags)


def test_a_file_named_twice_is_predicted_once(model_folder, images, tmp_path):
    out = tmp_path / "out.jsonl"
    main([model_folder, str(images / "a.png"), str(images), str(images / "a.png"), "--out", str(out)])
    assert len(lines(out)) == 4


def test_an_existing_file_is_kept_unless_overwrite(model_folder, images, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("kept")
    with pytest.raises(InputError, match="--overwrite"):
        main([model_folder, str(images), "--out", str(out)])
    assert out.read_text() == "kept"
    assert main([model_folder, str(images), "--out", str(out), "--overwrite"]) == 0
    assert len(out.read_text().splitlines()) == 5


def test_an_interrupted_run_leaves_neither_half_a_file_nor_a_temporary_one(
    model_folder, images, tmp_path, monkeypatch
):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("csr.evaluation.predict.diagnose", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main([model_folder, str(images), "--out", str(tmp_path / "out.csv")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["IMAGES", "--out", "DIR/x.txt"], "end the name with"),
        (["IMAGES", "--out", "DIR/none/x.csv"], "no folder"),
        (["EMPTY", "--out", "DIR/x.csv"], "no image in it"),
        (["IMAGES", "--out", "DIR/x.csv", "--device", "tpu9"], "--device"),
        (["IMAGES", "--out", "DIR/x.csv", "--batch_size", "0"], "batch_size"),
        (["IMAGES", "--out", "DIR/x.csv", "--checkpoint", "a.pth"], "folder of a run"),
    ],
)
def test_input_that_cannot_be_used_is_refused_before_anything_is_written(
    model_folder, images, tmp_path, arguments, message
):
    (tmp_path / "empty").mkdir()
    places = {"IMAGES": str(images), "EMPTY": str(tmp_path / "empty")}
    given = [places.get(a, a).replace("DIR", str(tmp_path)) for a in arguments]
    with pytest.raises(InputError, match=message):
        main([model_folder, *given])
    assert not list(tmp_path.glob("x.*"))


def test_dicom_files_without_a_preamble_are_predicted_and_odd_windows_named(model_folder, tmp_path, capsys):
    folder, out = tmp_path / "images", tmp_path / "out.jsonl"
    folder.mkdir()
    (folder / "bare").write_bytes(dicom()[132:])
    (folder / "whole.dcm").write_bytes(dicom(WindowCenter=9000, WindowWidth=10))
    assert main([model_folder, str(folder), "--out", str(out)]) == 0
    bare, beside = lines(out)  # the same pixels, both from the darkest to the brightest
    assert bare["diagnoses"] == beside["diagnoses"]
    said = capsys.readouterr().err
    assert "whole.dcm: its window lies beside its pixels (100.0% black by window 9000/10" in said
    assert "bare:" not in said


def test_images_unlike_the_training_images_are_marked_in_both_formats(images, tmp_path, capsys):
    """The limit is below every score, then above: the model knows no image, then all of them."""
    paths = [images / name for name in ("a.png", "b.png", "below/c.JPG", "d.png")]
    for limit, marked in ((-1e9, 1), (1e9, 0)):
        folder = str(with_novelty(limit).save_pretrained(tmp_path / f"model{marked}"))
        for kind in ("jsonl", "csv"):
            assert main([folder, str(images), "--out", str(tmp_path / f"{marked}.{kind}")]) == 0
        rows = lines(tmp_path / f"{marked}.jsonl")
        table = list(csv.DictReader((tmp_path / f"{marked}.csv").read_text().splitlines()))
        assert len(rows) == len(table) == len(paths)
        for row, cells in zip(rows, table, strict=True):
            seen = row["novelty"]
            assert seen["is_novel"] == bool(marked) and cells["unlike_training"] == str(marked)
            assert float(cells["novelty"]) == seen["score"] == max(seen["by"].values())
            assert cells["novelty_note"] == (seen["note"] or "")
            assert ("has not seen such an image" in cells["novelty_note"]) == bool(marked)
        assert "holds no statistics of its training images" not in capsys.readouterr().err


def test_a_model_without_statistics_of_its_training_images_says_so(model_folder, images, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main([model_folder, str(images), "--out", str(out)]) == 0
    assert "holds no statistics of its training images" in capsys.readouterr().err
    for row in csv.DictReader(out.read_text().splitlines()):
        assert (row["novelty"], row["unlike_training"], row["novelty_note"]) == ("", "", "")
