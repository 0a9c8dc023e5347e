"""Images that cannot be used are left out on every rank alike, told once, listed, and stay left out."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ended_run import STEP, ended, finished
from PIL import Image
from train_command import contents, flags, train

from csr.config.options import TrainConfig
from csr.data.images import resize
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError
from csr.training import inputs, quarantine
from csr.training.quarantine import Quarantine, find_bad_images

NUM = {"train": 210, "test": 100}
COLUMNS = "image_id,Cavity,Nodule,COPD,Pneumonia\n"


def draw(folder: Path) -> Path:
    """Small random images; every label is positive in half of them, by the bits of the image's number."""
    rng = np.random.default_rng(3)
    for split, num in NUM.items():
        (folder / split).mkdir(parents=True)
        rows = []
        for n in range(num):
            name = f"{split}{n:03d}"
            Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(
                folder / split / f"{name}.png"
            )
            rows.append(f"{name},{n & 1},{n >> 1 & 1},{n >> 2 & 1},{n >> 3 & 1}\n")
        (folder / f"labels_{split}.csv").write_text(COLUMNS + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("quarantine") / "data")


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def damage(data: Path) -> dict[str, str]:
    """Breaks two training images and a test image; returns what their reasons say."""
    (data / "train" / "train007.png").unlink()
    (data / "train" / "train100.png").write_bytes((data / "train" / "train100.png").read_bytes()[:200])
    (data / "test" / "test099.png").write_bytes(b"")
    return {"train007": "no file for image_id", "train100": "damaged", "test099": "the file is empty"}


def config(data: Path, **changed: Any) -> TrainConfig:
    built = TrainConfig()
    given = {
        "train_csv": str(data / "labels_train.csv"),
        "test_csv": str(data / "labels_test.csv"),
        "train_dir": str(data / "train"),
        "test_dir": str(data / "test"),
        "image_size": 16,
        "workers": 1,
        "output_dir": str(data.parent / "out"),
        "on_bad_image": "quarantine",
        **changed,
    }
    groups = {}
    for f in dataclasses.fields(built):
        group = getattr(built, f.name)
        names = {g.name for g in dataclasses.fields(group)} & set(given)
        groups[f.name] = dataclasses.replace(group, **{n: given[n] for n in names})
    return TrainConfig(**groups)


@pytest.fixture
def look(data: Path) -> Callable[..., tuple[Quarantine, list[str]]]:
    def call(*, recorded: Any = None, **changed: Any) -> tuple[Quarantine, list[str]]:
        said: list[str] = []
        chosen = config(data, **changed)
        return find_bad_images(chosen, said.append, lambda done, of: None, recorded=recorded), said

    return call


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded from now on."""
    seen: list[str] = []
    original = resize.resize_file

    def counted(path: Path, size: int) -> Any:
        seen.append(path.name)
        return original(path, size)

    monkeypatch.setattr(resize, "resize_file", counted)
    return seen


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_missing_and_unreadable_images_are_left_out_told_once_and_listed(data, look, cache, tmp_path):
    reasons = damage(data)
    chosen, said = look(image_cache=cache)
    assert [image.image_id for image in chosen.images] == list(reasons)
    assert len(said) == 1 and "2 of 210 training and 1 of 100 test images" in said[0]
    assert "quarantine.csv" in said[0]
    chosen.write(tmp_path)
    with open(tmp_path / "quarantine.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["9", "102", "101"]
    for row, (name, reason) in zip(rows, reasons.items(), strict=True):
        assert row["image_id"] == name and name in row["file"] and reason in row["reason"]
        assert row["csv"] == str(data / f"labels_{row['split']}.csv")


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_labels_split_boxes_and_stores_see_the_kept_images_alone(data, look, cache):
    reasons = damage(data)
    boxes = data / "boxes.csv"
    row = "{},Cavity,1,1,9,9\n".format
    boxes.write_text("image_id,class_name,x_min,y_min,x_max,y_max\n" + row("train007") + row("train001"))
    options = config(data, image_cache=cache, boxes_csv=str(boxes))
    chosen, _ = look(image_cache=cache, boxes_csv=str(boxes))
    found = inputs.build_tables(options, lambda line: None, left_out=chosen.left_out)
    by_hand = read_label_table(data / "labels_train.csv")
    kept = [n for n, name in enumerate(by_hand.image_ids) if name not in reasons]
    np.testing.assert_array_equal(found.train.concept_NK, by_hand.concept_NK[kept])
    assert found.train.image_ids == tuple(by_hand.image_ids[n] for n in kept)
    assert len(found.train_indices) + len(found.val_indices) == len(kept) == len(found.train_paths) == 208
    assert [found.train.image_ids[n] for n in found.boxes.image_R] == ["train001"]
    stores = inputs.build_stores(options, found, opened_before=chosen.stores)
    assert [len(store) for store in stores] == [208, 99]
    for store, paths in zip(stores, (found.train_paths, found.test_paths), strict=True):
        for n in (0, 7, len(store) - 1):
            wanted = resize.resize_file(paths[n], store.size).pixels_CSS
            np.testing.assert_array_equal(store[n], wanted)


def test_every_image_is_decoded_once_and_later_only_the_bad_ones(data, look, monkeypatch):
    damage(data)
    seen = decoded(monkeypatch)
    chosen, _ = look()
    found = inputs.build_tables(config(data), lambda line: None, left_out=chosen.left_out)
    inputs.build_stores(config(data), found, opened_before=chosen.stores)
    assert len(seen) == len(set(seen)) == 209 + 100
    seen.clear()
    again, _ = look()
    assert sorted(seen) == ["test099.png", "train100.png"] and again.images == chosen.images
    assert inputs.build_stores(config(data), found)[0].paths == chosen.stores[0].paths
    assert len(seen) == 2


def test_what_a_new_decoder_can_read_is_used_again(data, look, monkeypatch):
    damage(data)
    original = resize.decode_image

    def without_decoder(path: Path, **options: Any) -> Any:
        if path.name == "train050.png":
            raise InputError(f"{path}: no decoder")
        return original(path, **options)

    (data / "train" / "train007.png").write_bytes((data / "train" / "train008.png").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(resize, "decode_image", without_decoder)
        before, _ = look()
    assert [image.image_id for image in before.images] == ["train050", "train100", "test099"]
    assert before.images[0].reason == "no decoder"
    after, _ = look()
    assert [image.image_id for image in after.images] == ["train100", "test099"]


def test_whatever_lies_beside_the_cache_misleads_nobody(data, look):
    damage(data)
    chosen, _ = look()
    notes = sorted((data.parent / "out" / ".cache" / "images").glob("*.unreadable.json"))
    assert len(notes) == 2
    for text in ("[", "[999999]", '{"0": 1}', "[true]", "[[" * 100_000, "[0, 1, 2]"):
        for note in notes:
            note.write_text(text)
        # [0, 1, 2] are looked at and found readable: then the bad one is met again, and told as an error
        if text == "[0, 1, 2]":
            with pytest.raises(InputError, match=r"train100|test099"):
                look()
        else:
            assert look()[0].images == chosen.images


def test_more_than_one_in_a_hundred_stops_and_says_how_many(data, look):
    damage(data)
    (data / "train" / "train200.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="3 of 210 training images .* more than the 1 %") as caught:
        look()
    assert all(f"line {row}" in str(caught.value) for row in (9, 102, 202))
    (data / "test" / "test000.png").unlink()
    with pytest.raises(InputError, match="2 of 100 test images") as caught:
        look()
    assert "3 of 210 training images" in str(caught.value)


def test_where_too_many_are_missing_nothing_is_decoded(data, look, monkeypatch):
    for n in range(50):
        (data / "train" / f"train{n:03d}.png").unlink()
    seen = decoded(monkeypatch)
    with pytest.raises(InputError, match="50 of 210 training images.*and 30 more"):
        look()
    assert not [name for name in seen if name.startswith("train")]


def test_exactly_one_in_a_hundred_may_be_left_out(data, look):
    (data / "test" / "test005.png").unlink()
    assert len(look()[0].images) == 1


def test_without_bad_images_the_list_is_empty_and_nothing_is_said(look, tmp_path):
    chosen, said = look()
    chosen.write(tmp_path)
    assert said == [] and (tmp_path / "quarantine.csv").read_text().count("\n") == 1


def test_error_leaves_nothing_out_and_writes_no_list(data, look, tmp_path):
    damage(data)
    chosen, said = look(on_bad_image="error")
    chosen.write(tmp_path)
    assert (chosen, said) == (Quarantine(), []) and not (tmp_path / "quarantine.csv").exists()


@pytest.mark.parametrize("kind", ["link out", "two files", "label", "folder", "box"])
def test_wrong_ids_labels_boxes_and_folders_remain_errors(data, look, tmp_path, kind):
    changed: dict[str, str] = {}
    table = data / "labels_train.csv"
    if kind == "link out":
        (data / "train" / "train003.png").unlink()
        shutil.copy(data / "train" / "train004.png", tmp_path / "outside.png")
        (data / "train" / "train003.png").symlink_to(tmp_path / "outside.png")
        said = "leaves the image folder"
    elif kind == "two files":
        shutil.copy(data / "train" / "train003.png", data / "train" / "train003.jpg")
        said = "is 2 files"
    elif kind == "label":
        table.write_text(table.read_text().replace("train003,1", "train003,7"))
        said = "line 5"
    elif kind == "folder":
        changed, said = {"test_dir": str(tmp_path / "absent")}, "no such folder"
    else:
        (tmp_path / "boxes.csv").write_text(
            "image_id,class_name,x_min,y_min,x_max,y_max\ntrain003,Cavity,9,1,2,3\n"
        )
        changed, said = {"boxes_csv": str(tmp_path / "boxes.csv")}, "x_max 2 is not greater"
    with pytest.raises(InputError, match=said):
        look(**changed)


@pytest.mark.parametrize("kind", ["dangling link", "loop", "folder", "pipe"])
def test_ids_that_lead_to_no_file_are_left_out(data, look, kind):
    path = data / "test" / "test005.png"
    path.unlink()
    if kind == "dangling link":
        path.symlink_to(data / "test" / "nowhere.png")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert [image.image_id for image in look()[0].images] == ["test005"]


def test_a_concept_whose_only_positive_image_is_left_out_has_none(data, look):
    table = data / "labels_train.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for row in lines[1:]:
        row[1] = str(int(row[0] == "train007"))
    table.write_text("".join(",".join(row) + "\n" for row in lines))
    damage(data)
    chosen, _ = look()
    with pytest.raises(InputError, match="no positive image for 'Cavity'"):
        inputs.build_tables(config(data), lambda line: None, left_out=chosen.left_out)


def test_a_run_that_goes_on_leaves_out_what_is_recorded_readable_or_not(data, look):
    damage(data)
    before, _ = look()
    shutil.copy(data / "train" / "train008.png", data / "train" / "train007.png")
    shutil.copy(data / "train" / "train008.png", data / "train" / "train100.png")
    recorded = json.loads(json.dumps(before.record()))
    after, said = look(recorded=recorded)
    assert after.images == before.images and len(said) == 1
    tables = [
        inputs.build_tables(config(data), lambda line: None, left_out=chosen.left_out).fingerprint()
        for chosen in (before, after)
    ]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("begun_without", [True, False])
def test_a_run_that_goes_on_refuses_to_lose_further_images(data, look, begun_without):
    recorded: list[dict[str, Any]] = []
    if not begun_without:
        damage(data)
        recorded = look()[0].record()
    (data / "train" / "train150.png").write_bytes(b"rot")
    with pytest.raises(
        InputError, match="1 image.s. that the unfinished run was trained on.*train150.*--overwrite"
    ):
        look(recorded=recorded)


@pytest.mark.parametrize("recorded", [3, [1], [{"split": "train"}], [{}], "abc", [["train"]]])
def test_a_record_of_another_kind_is_refused(look, recorded):
    with pytest.raises(InputError, match="another version of csr"):
        look(recorded=recorded)


def test_what_one_host_cannot_read_is_left_out_on_all(data, look, monkeypatch):
    """Two hosts: the other one's images are whole, and this one's; each lacks another image."""
    (data / "train" / "train007.png").unlink()
    monkeypatch.setattr(
        quarantine.distributed,
        "all_gather_object",
        lambda value: (
            [value, {"train": {3: ("there/train003.png", "gone")}, "test": {}}]
            if isinstance(value, dict)
            else [value]
        ),
    )
    assert [image.image_id for image in look()[0].images] == ["train003", "train007"]


# the real command


QUARANTINE = ("--on_bad_image", "quarantine")
FEW = {"epochs_stage1": "2", "epochs_stage2": "1", "epochs_stage3": "1", "batch_size": "64"}


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("cache", ["off", "on"])
def test_one_and_two_ranks_train_on_the_same_kept_images(data, tmp_path, cache):
    reasons = damage(data)
    caches = {"image_cache": "off"} if cache == "off" else {}
    lists = []
    for launcher, size in (("none", "64"), ("torchrun", "32")):
        out = tmp_path / launcher
        done = train(
            *flags(data, out, *QUARANTINE, **{**FEW, **caches, "batch_size": size}), launcher=launcher
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Quarantine: ") == 1
        assert "2 of 210 training and 1 of 100 test images" in done.stdout
        told = re.search(r"Data: (\d+) training, (\d+) validation, (\d+) test images", done.stdout)
        assert told and (int(told[1]) + int(told[2]), int(told[3])) == (208, 99)
        lists.append((out / "csr_exp" / "quarantine.csv").read_bytes())
        assert not list((out / "csr_exp").glob(".*tmp"))
    assert lists[0] == lists[1] and all(name.encode() in lists[0] for name in reasons)


@pytest.mark.dist
@pytest.mark.slow
def test_a_dry_run_names_what_it_would_leave_out_and_writes_nothing(data, tmp_path):
    reasons = damage(data)
    done = train(*flags(data, tmp_path / "out", "--dry_run", *QUARANTINE))
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("Quarantine: "))
    assert all(name in line for name in reasons)
    assert contents(tmp_path / "out") == {}


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_goes_on_with_the_recorded_list_when_an_image_has_come_back(data, tmp_path, ranks):
    damage(data)
    changed = {**FEW, "batch_size": str(64 // ranks)}
    whole = flags(data, tmp_path / "out", *QUARANTINE, exp_name="whole", **changed)
    finished(*whole, ranks=ranks)
    killed = flags(data, tmp_path / "out", *QUARANTINE, exp_name="killed", **changed)
    assert ended("TERM", STEP, 5, *killed, ranks=ranks).returncode != 0
    shutil.copy(data / "train" / "train008.png", data / "train" / "train007.png")
    done = finished(*killed, ranks=ranks)
    assert "resumes" in done.stdout and done.stdout.count("Quarantine: ") == 1
    one, other = (
        torch.load(tmp_path / "out" / name / "final_model.pth", weights_only=True)
        for name in ("whole", "killed")
    )
    assert [n for n in other if not torch.equal(one[n], other[n])] == []
    lists = [(tmp_path / "out" / name / "quarantine.csv").read_bytes() for name in ("whole", "killed")]
    assert lists[0] == lists[1]


@pytest.mark.dist
@pytest.mark.slow
def test_a_killed_run_refuses_to_go_on_without_further_images_or_under_error(data, tmp_path):
    damage(data)
    arguments = flags(data, tmp_path / "out", exp_name="killed", **FEW)
    assert ended("TERM", STEP, 5, *arguments, *QUARANTINE).returncode == 75
    before = contents(tmp_path / "out")
    done = train(*arguments)
    assert done.returncode == 2 and "--on_bad_image was quarantine, now error" in done.stderr
    (data / "test" / "test005.png").unlink()
    done = train(*arguments, *QUARANTINE)
    assert done.returncode == 2 and "test005" in done.stderr and len(done.stderr.splitlines()) == 1
    after = contents(tmp_path / "out")
    assert {n: h for n, h in after.items() if n in before} == before


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["none", "torchrun"])
def test_too_many_bad_images_end_the_command_with_one_line(data, tmp_path, launcher):
    for n in range(6):
        (data / "train" / f"train{n:03d}.png").write_bytes(b"no image")
    done = train(*flags(data, tmp_path / "out", *QUARANTINE), launcher=launcher)
    told = [line for line in done.stderr.splitlines() if "csr: error:" in line]
    assert len(told) == 1 and "6 of 210 training images" in told[0]
    assert done.returncode == (2 if launcher == "none" else 1)
    assert not (tmp_path / "out" / "csr_exp").exists()
