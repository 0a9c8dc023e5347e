"""Mistakes in label tables: one line that names file, row and fix, exit code 2, nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from csv_edits import edit, first_image, without_column
from train_command import flags

import csr.train
from csr.cli.exit_codes import run_command


@pytest.mark.parametrize("which", ["train_csv", "test_csv"])
def test_a_missing_table_is_named(refused, which):
    assert "nowhere.csv" in refused(**{which: "nowhere.csv"})


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("text", [b"", b"\n\n", b"image_id,Nodule,COPD\n"])
def test_an_empty_table_is_named(refused, data, which, text):
    path = data / f"labels_{which}.csv"
    path.write_bytes(text)
    assert str(path) in refused()


def test_a_table_without_image_id_is_refused_with_the_columns_it_has(refused, data):
    path = data / "labels_train.csv"
    edit(path, lambda rows: rows[0].__setitem__(0, "file"))
    line = refused()
    assert f"{path} line 1" in line and "no column 'image_id'" in line and "'file'" in line


@pytest.mark.parametrize("value", ["2", "yes", "-1", "0.5", "nan", "1e0", "TRUE", "?"])
def test_a_label_that_is_neither_0_nor_1_nor_empty_is_named_with_line_and_column(refused, data, value):
    path = data / "labels_train.csv"
    column = path.read_text().split(",")[2]
    edit(path, lambda rows: rows[3].__setitem__(2, value))
    line = refused()
    assert f"{path} line 4" in line and f"{column!r}" in line and f"'{value}'" in line


def test_a_row_of_another_width_is_named(refused, data):
    edit(data / "labels_test.csv", lambda rows: rows[2].append("1"))
    assert "labels_test.csv line 3" in refused()


def test_an_image_in_both_tables_is_named_with_both_lines(refused, data):
    name = first_image(data)
    shutil.copy(next((data / "train").glob(f"{name}*")), data / "test")
    edit(data / "labels_test.csv", lambda rows: rows[1].__setitem__(0, name))
    line = refused()
    assert name in line and "labels_train.csv" in line and "labels_test.csv" in line and "remove" in line


def test_one_table_for_training_and_test_is_refused(refused, data):
    assert "share 48 image(s)" in refused(test_csv=data / "labels_train.csv", test_dir=data / "train")


@pytest.mark.parametrize("name", ["Cavity", "COPD"])
def test_a_column_that_the_test_table_lacks_is_named(refused, data, name):
    edit(data / "labels_test.csv", lambda rows: without_column(rows, name))
    line = refused()
    assert "labels_test.csv" in line and f"lacks '{name}'" in line


def test_a_column_that_only_the_test_table_has_is_named(refused, data):
    edit(data / "labels_train.csv", lambda rows: without_column(rows, "Cavity"))
    assert "also has 'Cavity'" in refused()


def test_no_concept_columns_are_refused(refused, data):
    for split in ("train", "test"):
        targets = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "No finding")

        def keep(rows, targets=targets):
            for name in [c for c in rows[0] if c not in ("image_id", "rad_id", *targets)]:
                without_column(rows, name)

        edit(data / f"labels_{split}.csv", keep)
    assert "no concept column" in (line := refused()) and "--concept_cols" in line


def test_no_target_columns_are_refused(refused, data):
    for split in ("train", "test"):
        for name in ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "No finding"):
            edit(data / f"labels_{split}.csv", lambda rows, name=name: without_column(rows, name))
    assert "no target column" in (line := refused()) and "--target_cols" in line


@pytest.mark.parametrize("flag", ["--concept_cols", "--target_cols"])
def test_a_named_column_that_is_not_there_is_refused_with_those_that_are(refused, flag):
    line = refused(flag, "Bone age")
    assert "'Bone age'" in line and flag in line and "'Cavity'" in line


def empty_column(data: Path, name: str) -> None:
    def clear(rows):
        at = rows[0].index(name)
        for row in rows[1:]:
            row[at] = "0"

    edit(data / "labels_train.csv", clear)


def test_a_concept_without_a_positive_is_named_with_both_ways_out(refused, data):
    empty_column(data, "Cavity")
    line = refused()
    assert "no positive image for 'Cavity'" in line and "--drop_rare 1" in line and "labels_train.csv" in line


def test_drop_rare_drops_such_a_concept_with_a_notice(data, tmp_path, capsys):
    empty_column(data, "Cavity")
    # a pooled map ends this run after the tables, before anything is trained
    code = run_command(csr.train.main, flags(data, tmp_path / "results", "--drop_rare", "1", image_size="16"))
    printed = capsys.readouterr()
    assert code == 2 and "1x1" in printed.err
    assert [line for line in printed.out.splitlines() if "Dropped" in line and "Cavity" in line]


def test_a_drop_rare_that_leaves_no_concept_is_refused(refused):
    assert "--drop_rare" in refused("--drop_rare", "1000")


def test_one_image_cannot_be_split(refused, data):
    edit(data / "labels_train.csv", lambda rows: rows.__delitem__(slice(4, None)))
    assert "labels_train.csv" in refused("--drop_rare", "1")
