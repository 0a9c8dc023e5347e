"""A table of a published set that was not imported is told so, by training and by the check alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import raw_chest_sets
from raw_sets import write_csv

from csr.cli.data import main
from csr.data.labels.raw_headers import raw_header_hint
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError

MAKE = {
    "chexpert": (raw_chest_sets.chexpert, "train.csv"),
    "nih": (raw_chest_sets.nih, "Data_Entry_2017.csv"),
    "padchest": (raw_chest_sets.padchest, raw_chest_sets.PADCHEST_TABLE),
    "mimic": (lambda folder: raw_chest_sets.mimic(folder, packed=False), "mimic-cxr-2.0.0-chexpert.csv"),
}


@pytest.mark.parametrize("name", MAKE)
def test_the_error_names_the_importer(name, tmp_path):
    make, file = MAKE[name]
    path: Path = make(tmp_path) / file
    with pytest.raises(InputError, match=f"{file} line 1: this is a table of .*; csr data {name} RAW OUT"):
        read_label_table(path)
    with pytest.raises(InputError, match=f"csr data {name} RAW OUT"):
        main(["check", str(path), str(tmp_path)])


def test_other_tables_of_the_sets_are_known_and_other_headers_are_not():
    for table, name in (("split", "mimic"), ("metadata", "mimic")):
        columns = {
            "split": "dicom_id,study_id,subject_id,split",
            "metadata": "dicom_id,subject_id,study_id,ViewPosition",
        }
        assert f"csr data {name}" in str(raw_header_hint(columns[table].split(",")))
    assert "csr data nih" in str(raw_header_hint(raw_chest_sets.NIH_BOX_HEADER.strip().split(",")))
    assert raw_header_hint(["file", "Edema", "Pneumonia"]) is None
    assert raw_header_hint(["subject_id", "study_id", "Edema"]) is None


def test_a_renamed_column_leaves_the_uncertain_cells_which_are_explained(tmp_path):
    write_csv(
        tmp_path / "a.csv", ("image_id", "Edema", "Pneumonia"), [("a", "1.0", "0.0"), ("b", "-1.0", "1")]
    )
    with pytest.raises(InputError, match="line 3, column 'Edema': .* --uncertain ones|zeros|ignore"):
        read_label_table(tmp_path / "a.csv")
