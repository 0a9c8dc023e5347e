"""Images that cannot be used are left out on every rank alike, reported once, listed, and stay left out."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_images import damage, draw
from train_options import train_options

from csr.config.options import TrainConfig
from csr.data.images import resize
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError
from csr.training import inputs, quarantine
from csr.training.quarantine import Quarantine, find_bad_images


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("quarantine") / "data")


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def config(data: Path, **changed: Any) -> TrainConfig:
    given = {
        "train_csv": str(data / "labels_train.csv"),
        "test_csv": str(data / "labels_test.csv"),
        "train_dir": str(data / "train"),
        "test_dir": str(data / "test"),
        "image_size": 16,
        "workers": 1,
        "output_dir": str(data.parent / "out"),
        "on_bad_image": "quarantine",
    }
    return train_options(**{**given, **changed})


@pytest.fixture
def look(data: Path) -> Callable[..., tuple[Quarantine, list[str]]]:
    def call(*, recorded: Any = None, **changed: Any) -> tuple[Quarantine, list[str]]:
        lines: list[str] = []
        chosen = config(data, **changed)
        return find_bad_images(chosen, lines.append, lambda done, of: None, recorded=recorded), lines

    return call


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded from now on."""
    seen: list[str] = []
    original = resize.resize_file

    def counted(path: Path, size: int, **options: Any) -> Any:
        seen.append(path.name)
        return original(path, size, **options)

    monkeypatch.setattr(resize, "resize_file", counted)
    return seen


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_missing_and_unreadable_images_are_left_out_reported_once_and_listed(data, look, cache, tmp_path):
    reasons = damage(data)
    chosen, lines = look(image_cache=cache)
    assert [image.image_id for image in chosen.images] == list(reasons)
    assert len(lines) == 1 and "2 of 210 training and 1 of 100 test images" in lines[0]
    assert "quarantine.csv" in lines[0]
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


def test_files_beside_the_cache_mislead_no_run(data, look):
    damage(data)
    chosen, _ = look()
    notes = sorted((data.parent / "out" / ".cache" / "images").glob("*.unreadable.json"))
    assert len(notes) == 2
    for text in ("[", "[999999]", '{"0": 1}', "[true]", "[[" * 100_000, "[0, 1, 2]"):
        for note in notes:
            note.write_text(text)
        # [0, 1, 2] are read and found whole: then the bad one is met again, and reported as an error
        if text == "[0, 1, 2]":
            with pytest.raises(InputError, match=r"train100|test099"):
                look()
        else:
            assert look()[0].images == chosen.images


def test_more_than_one_in_a_hundred_stops_with_their_number(data, look):
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


def test_without_bad_images_the_list_is_empty_and_nothing_is_reported(look, tmp_path):
    chosen, lines = look()
    chosen.write(tmp_path)
    assert lines == [] and (tmp_path / "quarantine.csv").read_text().count("\n") == 1


def test_error_leaves_nothing_out_and_writes_no_list(data, look, tmp_path):
    damage(data)
    chosen, lines = look(on_bad_image="error")
    chosen.write(tmp_path)
    assert (chosen, lines) == (Quarantine(), []) and not (tmp_path / "quarantine.csv").exists()


@pytest.mark.parametrize("kind", ["link out", "two files", "label", "folder", "box"])
def test_wrong_ids_labels_boxes_and_folders_remain_errors(data, look, tmp_path, kind):
    changed: dict[str, str] = {}
    table = data / "labels_train.csv"
    if kind == "link out":
        (data / "train" / "train003.png").unlink()
        shutil.copy(data / "train" / "train004.png", tmp_path / "outside.png")
        (data / "train" / "train003.png").symlink_to(tmp_path / "outside.png")
        reason = "lead out of the image folder"
    elif kind == "two files":
        shutil.copy(data / "train" / "train003.png", data / "train" / "train003.jpg")
        reason = "is 2 files"
    elif kind == "label":
        table.write_text(table.read_text().replace("train003,1", "train003,7"))
        reason = "line 5"
    elif kind == "folder":
        changed, reason = {"test_dir": str(tmp_path / "absent")}, "no such folder"
    else:
        (tmp_path / "boxes.csv").write_text(
            "image_id,class_name,x_min,y_min,x_max,y_max\ntrain003,Cavity,9,1,2,3\n"
        )
        changed, reason = {"boxes_csv": str(tmp_path / "boxes.csv")}, "x_max 2 is not greater"
    with pytest.raises(InputError, match=reason):
        look(**changed)


def test_linked_images_are_never_bad_images(data, look, tmp_path):
    """A linked sub-folder without leave is an error and no missing image; with leave nothing is left out."""
    (data / "train").rename(tmp_path / "elsewhere")
    (data / "train").mkdir()
    for name in ("a", "b"):
        (data / "train" / name).symlink_to(tmp_path / "elsewhere")
    table = data / "labels_train.csv"
    text = table.read_text().replace("\ntrain", "\na/train")
    table.write_text(text)
    with pytest.raises(InputError, match=r"images are behind links that lead out .*--links_into"):
        look()
    chosen, _ = look(links_into=(str(tmp_path / "elsewhere"),))
    assert chosen.images == ()


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


def test_a_resumed_run_leaves_out_what_is_recorded_readable_or_not(data, look):
    damage(data)
    before, _ = look()
    shutil.copy(data / "train" / "train008.png", data / "train" / "train007.png")
    shutil.copy(data / "train" / "train008.png", data / "train" / "train100.png")
    recorded = json.loads(json.dumps(before.record()))
    after, lines = look(recorded=recorded)
    assert after.images == before.images and len(lines) == 1
    tables = [
        inputs.build_tables(config(data), lambda line: None, left_out=chosen.left_out).fingerprint()
        for chosen in (before, after)
    ]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("begun_without", [True, False])
def test_a_resumed_run_refuses_to_lose_further_images(data, look, begun_without):
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
