"""Everything that `csr data check` finds is in its page."""

from __future__ import annotations

import copy
import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from csr.data.check import examples, page
from csr.data.check.check import DataFiles, check_data
from csr.data.check.page import report_page
from csr.data.check.text import text_lines

# what stands for the file of a picture, or is the page's own
NOT_SHOWN = {
    ("format",): "of programs that read the JSON",
    ("format_version",): "the same",
    ("options", "rare"): "in the warning of rare labels",
    ("splits", "*", "csv"): "in the title",
    ("exact_duplicates", "[]", "files", "[]"): "its picture",
    ("exact_duplicates", "[]", "same_id"): "the ids are shown",
    ("near_duplicates", "[]", "files", "[]"): "its picture",
    ("near_duplicates", "[]", "same_id"): "the ids are shown",
    ("examples", "*", "files", "[]"): "its picture",
    ("splits", "*", "cells", "by_label", "*"): "not annotated, in the table of the labels",
    ("splits", "*", "links", "images"): "shown where they are more than the files",
    ("boxes", "reach", "[]"): "in a warning",
    ("cooccurrence", "names", "[]"): "the labels",
    ("labels", "*", "kind"): "which table it is in",
}
ONE_FOR_ALL = {"labels", "classes", "by_label", "examples", "splits", "kinds", "readers_per_image", "ignored"}


@pytest.fixture(scope="module")
def found(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what is found in data with readers, boxes, groups, empty cells, links, copies and bad files."""
    data = Path(shutil.copytree(phantom_folder, tmp_path_factory.mktemp("page") / "data"))
    train, test = (sorted((data / split).iterdir()) for split in ("train", "test"))
    shutil.copy(train[0], test[0])
    shutil.copy(train[2], train[3])
    test[2].unlink()
    test[2].symlink_to(test[1].name)
    with Image.open(next(path for path in train[6:] if Image.open(path).mode == "L")) as grey:
        grey.resize((50, 50)).save(test[3])
    train[4].unlink()
    train[5].write_bytes(b"junk")
    for split in ("train", "test"):
        path = data / f"labels_{split}.csv"
        table = pd.read_csv(path, dtype=object)
        table["patient_id"] = [f"{split} {n // 2}" for n in pd.factorize(table["image_id"])[0]]
        table.loc[table["image_id"] == table["image_id"][9], "Cavity"] = ""
        table["Twin of COPD"] = table["COPD"]
        table.to_csv(path, index=False)
    boxes = pd.read_csv(data / "boxes_train.csv")
    other = boxes.iloc[[0]].assign(class_name="Other")
    pd.concat([boxes, boxes.iloc[[0]], other]).to_csv(data / "boxes_train.csv", index=False)
    files = DataFiles(
        csv=str(data / "labels_train.csv"),
        folder=str(data / "train"),
        test_csv=str(data / "labels_test.csv"),
        test_folder=str(data / "test"),
        boxes_csv=str(data / "boxes_train.csv"),
    )
    return check_data(files, rare=10, workers=2)


def words(text: str) -> str:
    """Return the text of a page with single blanks."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_every_line_of_the_text_is_in_the_page_in_its_order(found):
    text = words(report_page(found))
    lines = [" ".join(line.split()) for line in text_lines(found)]
    table = range(lines.index(next(line for line in lines if line.startswith("images with"))), len(lines))
    rows = [*range(table.start, next(i for i in table if lines[i].startswith("Readers:")))]
    prose = [line for i, line in enumerate(lines) if line and i not in rows and line != "Columns:"]
    judged = [line for line in prose if line.startswith(("Warning: ", "Problem: ")) or line == prose[-1]]
    assert len(judged) > 5 and len(prose) > len(judged) + 10
    for line in judged:
        assert line.partition(": ")[2] in text or line in text, line
    at = 0
    for line in (line for line in prose if line not in judged):
        assert line in text[at:], line
        at = text.index(line, at)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Yield places of values, and their kind: the same with one name for all labels and all list entries."""
    if isinstance(value, dict):
        for key, below in value.items():
            some = path and path[-1] in ONE_FOR_ALL
            for place, kind in leaves(below, (*path, key)):
                yield place, (*kind[: len(path)], "*" if some else key, *kind[len(path) + 1 :])
    elif isinstance(value, list):
        for place, below in enumerate(value):
            for inner, kind in leaves(below, (*path, place)):
                yield inner, (*kind[: len(path)], "[]", *kind[len(path) + 1 :])
    else:
        yield path, path


def test_every_kind_of_finding_of_the_json_changes_the_page(found, monkeypatch):
    for module in (page, examples):  # decoding takes the time
        monkeypatch.setattr(module, "small_picture", lambda *_: None)
    one_of_each = {kind: place for place, kind in leaves(found)}
    assert {kind[0] for kind in one_of_each} == {*found}, "the data has findings of every kind"
    before, silent = words(report_page(found)), []
    for kind, place in one_of_each.items():
        changed = copy.deepcopy(found)
        holder = changed
        for step in place[:-1]:
            holder = holder[step]
        old = holder[place[-1]]
        if isinstance(old, bool):
            holder[place[-1]] = not old
        elif isinstance(old, str):
            holder[place[-1]] = "target" if old == "concept" else "concept" if old == "target" else "changed"
        else:
            holder[place[-1]] = 0.123 if isinstance(old, float) and old <= 1 else (old or 0) + 3
        if kind not in NOT_SHOWN and words(report_page(changed)) == before:
            silent.append(kind)
    assert silent == []
