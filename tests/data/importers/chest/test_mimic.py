"""`csr data mimic`: three packed tables joined, the official split, the projections."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import raw_chest_sets

from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return raw_chest_sets.mimic(tmp_path / "raw")


def test_labels_split_and_view_are_joined(raw, bring_in, rows_of, capsys):
    out = bring_in("mimic", raw)
    train, test = rows_of(out / "labels_train.csv"), rows_of(out / "labels_test.csv")
    assert [(r["image_id"], r["patient_id"]) for r in train] == [
        ("files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg", "10000032"),
        ("files/p10/p10000764/s57375967/2a2277a9-b0ded155.jpg", "10000764"),
    ]
    names = ("No Finding", "Consolidation", "Pneumonia", "Edema", "Fracture")
    assert [[row[name] for name in names] for row in train] == [
        ["1", "0", "0", "0", "0"],
        ["0", "1", "", "0", "0"],
    ]
    assert [r["image_id"] for r in test] == ["files/p12/p12000935/s51178377/ea030e7a-2e3b1346.jpg"]
    assert (test[0]["Consolidation"], test[0]["Pneumonia"]) == ("", "1")
    assert all((out / "images" / row["image_id"]).is_file() for row in (*train, *test))
    assert read_label_table(out / "labels_train.csv").target_names == ("No Finding", "Pneumonia")
    text = capsys.readouterr().out
    assert "7 rows of the metadata here; MIMIC-CXR-JPG was published with 377,110" in text
    assert "2 images of other views are left out (--views frontal): 'LATERAL' 1, blank 1" in text
    assert "1 images are left out: their study has no row of labels" in text
    assert "1 images of the validation split are left out; --with_validation adds" in text
    assert "2 cells are -1, uncertain: empty" in text


def test_validation_joins_training_and_all_views_are_kept_when_asked(raw, bring_in, rows_of):
    out = bring_in("mimic", raw, "--with_validation", "--views", "all")
    assert [r["patient_id"] for r in rows_of(out / "labels_train.csv")] == [
        "10000032",
        "10000032",
        "10000764",
        "11000898",
    ]
    assert len(rows_of(out / "labels_test.csv")) == 2


def test_plain_and_packed_tables_give_the_same(raw, tmp_path, bring_in):
    plain = raw_chest_sets.mimic(tmp_path / "plain", packed=False)
    a, b = bring_in("mimic", raw, out="a"), bring_in("mimic", plain, out="b")
    assert (a / "labels_train.csv").read_bytes() == (b / "labels_train.csv").read_bytes()
    assert sorted(p.name for p in a.iterdir()) == [
        "csr_dataset.json",
        "images",
        "labels_test.csv",
        "labels_train.csv",
    ]


def test_a_broken_archive_is_one_line(raw, bring_in):
    path = raw / "mimic-cxr-2.0.0-split.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="split.csv.gz: is no whole gzip file"):
        bring_in("mimic", raw)
    path.write_text("dicom_id,split\n")
    with pytest.raises(InputError, match="split.csv.gz: is no whole gzip file"):
        bring_in("mimic", raw)


@pytest.mark.parametrize(
    "table, old, new, message",
    [
        ("split", "validate", "valid", "split.csv.gz line 5: split 'valid' is none of train, validate, test"),
        ("split", "68b5c4b1", "x", "metadata.csv.gz line 5: image '68b5c4b1-227d0485' is not in .*split.csv"),
        ("split", "68b5c4b1-227d0485", "02aa804e-bde0afdd", "split.csv.gz line 5: .* is in two parts"),
        ("metadata", "10000764", "../secret", "metadata.csv.gz line 4, column subject_id: '../secret' is no"),
        ("metadata", "LATERAL", "LATERAL,x", "metadata.csv.gz line 3: 6 cells where the header has 5"),
        ("chexpert", "10000764,57375967", "10000032,50414267", "line 3: study '50414267' has two rows"),
        ("chexpert", "-1.0", "-2", "chexpert.csv.gz line 3, column 'Pneumonia': '-2' is not 0, 1, -1"),
        ("chexpert", "Fracture", "Frakture", "chexpert.csv.gz line 1: no column 'Fracture'"),
    ],
)
def test_an_odd_table_is_one_line_that_names_the_packed_file(raw, bring_in, table, old, new, message):
    path = raw / f"mimic-cxr-2.0.0-{table}.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(old.encode(), new.encode(), 1)))
    with pytest.raises(InputError, match=message) as caught:
        bring_in("mimic", raw)
    assert "\n" not in str(caught.value) and ".import-" not in str(caught.value)


def test_a_table_that_is_not_there_is_named_in_both_forms(raw, bring_in):
    (raw / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    with pytest.raises(InputError, match=r"chexpert.csv: no such file \(nor mimic-cxr-2.0.0-chexpert.csv.gz"):
        bring_in("mimic", raw)
