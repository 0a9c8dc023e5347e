"""`csr data check`: what it counts, finds, prints and writes; exit code 2 where training would not start."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from csr.cli.data import main
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError


@pytest.fixture
def data(phantom_folder: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(phantom_folder, tmp_path / "data"))


def words(data: Path, *more: str) -> list[str]:
    return [
        "check",
        str(data / "labels_train.csv"),
        str(data / "train"),
        "--test_csv",
        str(data / "labels_test.csv"),
        "--test_dir",
        str(data / "test"),
        "--boxes_csv",
        str(data / "boxes_train.csv"),
        *more,
    ]


@pytest.fixture
def check(data: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the check with --json; returns the exit code and what was found."""

    def run(*more: str) -> tuple[int, dict]:
        code = main(words(data, "--json", *more))
        return code, json.loads(capsys.readouterr().out)

    return run


def images(data: Path, split: str = "train") -> list[Path]:
    return sorted((data / split).iterdir())


def test_counts_are_those_of_the_tables(data, check):
    code, found = check()
    assert code == 0 and found["problems"] == []
    train, test = (pd.read_csv(data / f"labels_{split}.csv") for split in ("train", "test"))
    merged = train.drop(columns="rad_id").groupby("image_id").max()
    for name in merged.columns:
        row = found["labels"][name]
        assert row["train"] == {"positive": int(merged[name].sum()), "annotated": 48}
        assert row["test"] == {"positive": int(test[name].sum()), "annotated": 24}
    assert (
        found["splits"]["train"]["readers_per_image"] == {"3": 48} and found["splits"]["test"]["images"] == 24
    )
    sizes = [Image.open(path).size for path in images(data)]
    assert sum(count for _, _, count in found["splits"]["train"]["sizes"]) == 48
    assert found["splits"]["train"]["width"] == {
        "min": min(w for w, _ in sizes),
        "median": float(np.median([w for w, _ in sizes])),
        "max": max(w for w, _ in sizes),
    }
    assert found["boxes"]["boxes"] == len(pd.read_csv(data / "boxes_train.csv"))
    assert found["exact_duplicates"] == [] and found["near_duplicates"] == []


def test_labels_together_are_counted_as_pandas_does(data, check):
    _, found = check()
    together = found["cooccurrence"]
    merged = (
        pd.read_csv(data / "labels_train.csv")
        .drop(columns="rad_id")
        .groupby("image_id")
        .max()[together["names"]]
    )
    np.testing.assert_array_equal(together["counts"], merged.T.to_numpy() @ merged.to_numpy())


def test_a_table_of_many_labels_gives_a_small_page_and_a_short_list(tmp_path, capsys):
    labels, rng = 400, np.random.default_rng(0)
    (tmp_path / "train").mkdir()
    table = pd.DataFrame(rng.random((24, labels)) < 0.3, columns=[f"finding {i}" for i in range(labels)])
    table = table.astype(int).assign(COPD=[n % 2 for n in range(24)])
    table["finding 1"] = table["finding 0"] = [1] * 20 + [0] * 4  # 20 images with both: no pair has more
    table.insert(0, "image_id", [f"i{n}" for n in range(24)])
    table.to_csv(tmp_path / "labels.csv", index=False)
    for name in table["image_id"]:
        noise = rng.integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "train" / f"{name}.png")
    page = tmp_path / "page.html"
    assert main(["check", str(tmp_path / "labels.csv"), str(tmp_path / "train"), "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "finding 99 " in printed and "finding 100 " not in printed.partition("Warning")[0]
    assert ".. 300 more: --json, or the page of --out" in printed
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"data:image/jpeg;base64,[^\"]*", text)
    assert len(pictures) in range(40 * 3, 40 * 4 + 1) and "Of 361 more labels none are shown" in text
    assert len(text) - sum(map(len, pictures)) < 1000 * labels  # with all pairs it was some 90 times as much
    assert "401 labels are too many" in text and "finding 399" in text
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", text.partition("401 labels")[2])
    first = cells.index("finding 0")
    assert cells[first : first + 5] == ["finding 0", "finding 1", "20", "100.0%", "100.0%"]


def test_empty_cells_are_not_annotated(data, check):
    path = data / "labels_test.csv"
    table = pd.read_csv(path, dtype=object)
    table.loc[:4, "Cardiomegaly"] = ""
    table.to_csv(path, index=False)
    assert check()[1]["labels"]["Cardiomegaly"]["test"]["annotated"] == 19


def test_a_copy_in_both_splits_is_a_problem_and_a_changed_copy_a_warning(data, check):
    train, test = images(data), images(data, "test")
    shutil.copy(train[0], test[0])
    grey = Image.open(next(p for p in train[1:] if Image.open(p).mode == "L"))
    grey.resize((50, 50)).save(test[1])
    shutil.copy(train[2], train[3])
    code, found = check()
    assert code == 2
    exact = [sorted(group["images"]) for group in found["exact_duplicates"]]
    assert sorted(exact) == sorted(
        [
            sorted([f"train:{train[0].stem}", f"test:{test[0].stem}"]),
            sorted([f"train:{p.stem}" for p in train[2:4]]),
        ]
    )
    near = found["near_duplicates"]
    assert len(near) == 1 and near[0]["leak"] and f"test:{test[1].stem}" in near[0]["images"]
    assert [line for line in found["problems"] if train[0].stem in line and "same bytes" in line]
    assert [line for line in found["warnings"] if test[1].stem in line and "look the same" in line]
    assert [line for line in found["warnings"] if train[3].stem in line and "one split" in line]


def test_missing_and_unreadable_images_are_listed_and_the_rest_is_looked_at(data, check):
    train = images(data)
    train[0].unlink()
    train[1].write_bytes(b"junk")
    train[2].write_bytes(train[2].read_bytes()[:150])
    code, found = check()
    split = found["splits"]["train"]
    assert code == 2 and split["readable"] == 45 and len(found["problems"]) == 2
    assert len(split["missing"]) == 1 and train[0].stem in split["missing"][0]
    assert {train[1].name, train[2].name} == {Path(line.split(":")[0]).name for line in split["unreadable"]}


def test_an_image_id_of_both_tables_is_a_problem(data, check):
    path = data / "labels_test.csv"
    name = images(data)[0].stem
    path.write_text(path.read_text().replace(images(data, "test")[0].stem, name))
    shutil.copy(data / "train" / f"{name}.png", data / "test")
    code, found = check()
    assert code == 2 and any("share 1 image" in line and name in line for line in found["problems"])


def test_a_patient_of_both_tables_is_a_warning(data, check):
    for split, first in (("train", 0), ("test", 47)):
        path = data / f"labels_{split}.csv"
        table = pd.read_csv(path)
        table["patient_id"] = [f"p{first + i}" for i in pd.factorize(table["image_id"])[0]]
        table.to_csv(path, index=False)
    code, found = check()
    assert code == 0 and any("1 patients are in both tables ('p47')" in line for line in found["warnings"])
    assert found["splits"]["train"]["patients"] == 48


def test_rare_and_constant_labels_are_warned_of_and_a_concept_without_positives_is_a_problem(data, check):
    path = data / "labels_train.csv"
    table = pd.read_csv(path)
    table["Cavity"], table["COPD"] = 0, 1
    table.to_csv(path, index=False)
    code, found = check("--rare", "7")
    assert code == 2 and len(found["problems"]) == 1
    assert "no positive image for 'Cavity'" in found["problems"][0] and "--drop_rare" in found["problems"][0]
    assert any(line.startswith("COPD: every annotated train image") for line in found["warnings"])
    counts = {name: row["train"]["positive"] for name, row in found["labels"].items()}
    rare = next(line for line in found["warnings"] if line.startswith("fewer than 7 train images"))
    assert {name for name in counts if f"{name} (" in rare} == {n for n, count in counts.items() if count < 7}


@pytest.mark.parametrize(
    "old, new, message",
    [(",3", ",-3", "negative"), ("x_min", "left", "no column 'x_min'")],
)
def test_wrong_boxes_are_a_problem(data, check, old, new, message):
    path = data / "boxes_train.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    code, found = check()
    assert code == 2 and any("boxes_train.csv" in line and message in line for line in found["problems"])


def test_a_box_outside_its_image_is_a_problem(data, check):
    lines = (data / "boxes_train.csv").read_text().splitlines()
    cells = lines[1].split(",")
    (data / "boxes_train.csv").write_text(
        "\n".join([lines[0], ",".join([*cells[:-2], "999", cells[-1]]), *lines[2:]])
    )
    code, found = check()
    assert code == 2 and any("outside their image" in line for line in found["problems"])


def test_a_broken_test_table_is_a_problem_and_the_training_table_is_looked_at(data, check):
    (data / "labels_test.csv").write_text("image_id,x\na,1\n")
    code, found = check()
    assert code == 2 and [*found["splits"]] == ["train"] and "labels_test.csv" in found["problems"][0]


def test_a_broken_training_table_is_one_line(data):
    (data / "labels_train.csv").write_text("image_id,x\na,7\n")
    with pytest.raises(InputError, match="labels_train.csv"):
        main(words(data))


def test_a_single_table_without_readers_suffices(data, capsys):
    assert main(["check", str(data / "labels_test.csv"), str(data / "test")]) == 0
    text = capsys.readouterr().out
    assert "kappa" not in text and "Usable for training" in text


def test_the_text_has_counts_agreement_and_verdict(data, capsys):
    assert main(words(data)) == 0
    text = capsys.readouterr().out
    positive = int((read_label_table(data / "labels_train.csv").concept_NK[:, 0] >= 0.5).sum())
    assert re.search(rf"Aortic enlargement +{positive} of 48 ", text) and "Cohen's kappa 0." in text
    assert "48 images in labels_train.csv (readers: 48 by 3); 48 readable" in text


class Page(HTMLParser):
    """Checks that tags close in order; collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]
        if tag not in ("meta", "img", "circle", "path", "rect", "line", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("circle", "path", "rect", "line"):
            assert self.open.pop() == tag


def test_the_page_is_whole_carries_everything_and_is_safe_against_names(data, tmp_path, capsys):
    shutil.copy(images(data)[0], images(data, "test")[0])
    for split in ("train", "test"):
        path = data / f"labels_{split}.csv"
        path.write_text(path.read_text().replace("Cavity", "<b>Cavity & co</b>"))
    boxes = data / "boxes_train.csv"
    boxes.write_text(boxes.read_text().replace("Cavity", "<b>Cavity & co</b>"))
    assert main(words(data, "--out", str(tmp_path / "page.html"))) == 2
    text = (tmp_path / "page.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and "<b>Cavity" not in text and "&lt;b&gt;Cavity &amp; co" in text
    assert all(
        address.startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,"))
        for address in page.addresses
    )
    assert sum(address.startswith("data:image/png") for address in page.addresses) == 2
    assert "prefers-color-scheme: dark" in text and "<script" not in text and "Not usable" in text
    assert f"Report: {tmp_path / 'page.html'}" in capsys.readouterr().out


def test_a_page_is_not_written_over(data, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("kept")
    with pytest.raises(InputError, match="--overwrite"):
        main(words(data, "--out", str(page)))
    assert page.read_text() == "kept"
    assert main(words(data, "--out", str(page), "--overwrite")) == 0
    assert page.read_text().startswith("<!doctype html>")
    with pytest.raises(InputError, match="no folder"):
        main(words(data, "--out", str(tmp_path / "none" / "page.html")))


@pytest.mark.parametrize(
    "argv, message",
    [
        (["check", "a.csv", "dir", "--test_csv", "b.csv"], "--test_dir belong together"),
        (["check", "a.csv"], "DIR"),
        (["vindr", "raw"], "OUT"),
        ([], "COMMAND"),
        (["rsna", "a", "b"], "invalid choice: 'rsna'"),
        (["mimic", "nowhere", "out"], "nowhere: no such folder"),
        (["vindr", "nowhere", "out"], "nowhere: no such folder"),
        (["check", "nowhere.csv", "dir"], "nowhere.csv"),
        (["check", "a.csv", "dir", "--rare", "x"], "--rare"),
        (["vindr", "a", "b", "--images", "move"], "--images"),
    ],
)
def test_senseless_commands_are_input_errors(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        main(argv)
    assert list(tmp_path.iterdir()) == []


def test_the_text_tells_what_columns_cells_groups_greys_and_links_are(data, capsys):
    path = data / "labels_test.csv"
    table = pd.read_csv(path, dtype=object)
    table.loc[:2, "Cardiomegaly"] = ""
    table["patient_id"] = [str(n // 2) for n in range(len(table))]
    table.to_csv(path, index=False)
    train = pd.read_csv(data / "labels_train.csv", dtype=object)
    train["patient_id"] = train["image_id"]
    train.to_csv(data / "labels_train.csv", index=False)
    first, second = images(data, "test")[:2]
    second.unlink()
    second.symlink_to(first.name)
    assert main(words(data)) == 0
    printed = capsys.readouterr().out
    for line in (
        "  group: 'patient_id'",
        "  reader: 'rad_id'",
        "  diagnoses (6): 'COPD'",
        "  3 of 384 cells (0.8%) are empty in 1 columns",
        "12 groups, 12 of several images, the largest of 2",
        "  1 images are symbolic links; 23 files in all",
        "24 test images are links to 23 files",
        "every train image has a patient of its own",
        "mean grey ",
        "'Emphysema' = 'COPD' in ",
    ):
        assert line in printed, line


def test_json_has_the_columns_and_the_twins(data, check):
    train = pd.read_csv(data / "labels_train.csv", dtype=object)
    test = pd.read_csv(data / "labels_test.csv", dtype=object)
    concepts = read_label_table(data / "labels_train.csv").concept_names
    common = str(train[list(concepts)].astype(int).sum().idxmax())
    for name, table in (("train", train), ("test", test)):
        table.assign(Caverne=table[common]).to_csv(data / f"labels_{name}.csv", index=False)
    _, found = check()
    assert "Caverne" in found["columns"]["concept"] and found["columns"]["group"] == []
    twin = next(one for one in found["twins"] if one["other"] == "Caverne")
    assert (twin["concept"], twin["kind"], twin["share"]) == (common, "concept", 1.0)
    assert any(f"'{common}' = 'Caverne' in 100%" in line for line in found["warnings"])
    assert found["splits"]["train"]["links"] == {"images": 48, "symbolic": 0, "files": 48}
