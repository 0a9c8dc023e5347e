"""`csr data nih`: labels of one cell, twelve folders, the official lists, boxes of x, y, w, h."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import raw_chest_sets

from csr.data.labels.boxes import read_boxes
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError

SIDES = ("x_min", "y_min", "x_max", "y_max")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return raw_chest_sets.nih(tmp_path / "raw")


def test_one_cell_becomes_columns_and_files_are_found_in_their_folders(raw, bring_in, rows_of, capsys):
    out = bring_in("nih", raw)
    train, test = rows_of(out / "labels_train.csv"), rows_of(out / "labels_test.csv")
    assert [(r["image_id"], r["patient_id"]) for r in (*train, *test)] == [
        ("images_001/images/00000001_000.png", "1"),
        ("images_001/images/00000001_001.png", "1"),
        ("images_002/images/00000002_000.png", "2"),
        ("images_002/images/00000003_000.png", "3"),
        ("images_012/images/00000004_000.png", "4"),
    ]
    labels = [sorted(n for n, cell in r.items() if cell == "1" and n != "patient_id") for r in train]
    assert labels == [["Cardiomegaly", "Emphysema"], ["No Finding"], ["Infiltration", "Pneumonia"]]
    assert all({*row.values()} > {"0", "1"} and "" not in row.values() for row in train)
    table = read_label_table(out / "labels_train.csv")
    assert table.target_names == ("Pneumonia", "No Finding") and len(table.concept_names) == 13
    text = capsys.readouterr().out
    assert "5 rows of Data_Entry_2017.csv here; NIH ChestX-ray14 was published with 112,120" in text
    assert "4 patients here; NIH ChestX-ray14 was published with 30,805" in text
    assert "3 boxes here; NIH ChestX-ray14 was published with 984" in text


def test_boxes_are_corners_in_pixels_of_images_that_were_scaled_down(raw, bring_in, rows_of, capsys):
    out = bring_in("nih", raw)
    rows = rows_of(out / "boxes_test.csv")
    # 64 px of 1024: a sixteenth of x, y, x + w, y + h
    assert [(r["image_id"], r["class_name"], *(float(r[s]) for s in SIDES)) for r in rows] == [
        ("images_002/images/00000003_000.png", "Infiltration", 6.28125, 12.515625, 25.03125, 37.546875),
        ("images_012/images/00000004_000.png", "Cardiomegaly", 0, 32, 64, 48),
    ]
    assert len(read_boxes(out / "boxes_test.csv", table=read_label_table(out / "labels_test.csv"))) == 2
    assert not (out / "boxes_train.csv").exists()
    text = capsys.readouterr().out
    assert "boxes that show no concept are left out: 'Pneumonia' 1" in text
    assert "2 boxes are scaled from 1024 x 1024 to the size of their image (64 x 64)" in text
    assert "0 boxes, images in" in text and "2 boxes, images in" in text and "--boxes_csv" not in text


def test_boxes_of_images_of_the_published_size_are_kept_as_they_are(tmp_path, bring_in, rows_of, capsys):
    out = bring_in("nih", raw_chest_sets.nih(tmp_path / "raw", px=1024))
    first = rows_of(out / "boxes_test.csv")[0]
    assert [float(first[side]) for side in SIDES] == [100.5, 200.25, 400.5, 600.75]
    assert "scaled" not in capsys.readouterr().out


def test_boxes_of_a_chosen_concept_are_written(raw, bring_in, rows_of):
    out = bring_in("nih", raw, "--concepts", "Pneumonia", "Cardiomegaly", "--targets", "No Finding")
    assert [r["class_name"] for r in rows_of(out / "boxes_test.csv")] == ["Cardiomegaly", "Pneumonia"]


@pytest.mark.parametrize("place", ["images", "images_001", "."])
def test_all_images_may_lie_in_one_folder(raw, bring_in, rows_of, place):
    (raw / place).mkdir(exist_ok=True)
    for path in list(raw.rglob("*.png")):
        shutil.move(path, raw / place / path.name)
    out = bring_in("nih", raw)
    images = [row["image_id"] for row in rows_of(out / "labels_train.csv")]
    assert images[0] == f"{place}/00000001_000.png".removeprefix("./")
    assert all((out / "images" / image).is_file() for image in images)


def test_a_newer_table_is_preferred(raw, bring_in, rows_of):
    text = (raw / "Data_Entry_2017.csv").read_text()
    (raw / "Data_Entry_2017_v2020.csv").write_text(
        text.replace("Cardiomegaly|Emphysema", "Mass")
        .replace("[x,y],\n", "[x,y]\n")
        .replace("0.143,\n", "0.143\n")
    )
    row = rows_of(bring_in("nih", raw) / "labels_train.csv")[0]
    assert (row["Mass"], row["Emphysema"]) == ("1", "0")


def test_an_image_in_two_folders_is_refused(raw, bring_in):
    name = "00000001_000.png"
    shutil.copy(raw / "images_001" / "images" / name, raw / "images_002" / "images" / name)
    with pytest.raises(InputError, match=f"'{name}' is in images_001/images/00000001_000 and in images_002"):
        bring_in("nih", raw)


def test_rows_without_a_list_are_left_out_and_said(raw, bring_in, capsys):
    path = raw / "train_val_list.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    bring_in("nih", raw)
    assert (
        "1 rows of Data_Entry_2017.csv are left out: their image is in neither list"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        (
            "Data_Entry_2017.csv",
            "Emphysema",
            "Emphisema",
            "Data_Entry_2017.csv line 2: 'Emphisema' is no label",
        ),
        (
            "Data_Entry_2017.csv",
            "00000002_000",
            "00000009_000",
            "1 images of the lists have no row .*00000002",
        ),
        ("Data_Entry_2017.csv", "Finding Labels", "Labels", "line 1: no column 'Finding Labels'"),
        ("test_list.txt", "00000003", "00000002", "test_list.txt line 1: '00000002_000' is listed twice"),
        ("BBox_List_2017.csv", "100.5", "x", "BBox_List_2017.csv line 2: 'x', '200.25', .* are not x, y"),
        ("BBox_List_2017.csv", "100.5", "900.5", "BBox_List_2017.csv line 2: box .* leaves its image of 64"),
    ],
)
def test_what_is_not_as_published_is_one_line(raw, bring_in, file, old, new, message):
    path = raw / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        bring_in("nih", raw)
    assert "\n" not in str(caught.value)
