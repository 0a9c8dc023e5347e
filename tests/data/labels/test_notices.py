"""Lines on tables whose author may have meant something else; sound tables get none."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from csr.data.labels.boxes import read_boxes
from csr.data.labels.names import means_group
from csr.data.labels.notices import constant_targets, table_notices
from csr.data.labels.table import read_label_table, shared_patients
from csr.data.labels.validation_split import split_validation
from csr.runtime.errors import InputError

HEADER = ["image_id", "Cavity", "Nodule", "COPD", "Pneumonia"]


def labels(n: int) -> list[object]:
    return [n & 1, n >> 1 & 1, int(n % 3 == 0), int(n % 4 == 0)]


def write(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def table(tmp_path: Path, header=HEADER, rows=None, **options):
    rows = [[f"a{n}", *labels(n)] for n in range(60)] if rows is None else rows
    return read_label_table(write(tmp_path / "labels.csv", header, rows), **options)


def test_a_sound_table_gets_no_notice(tmp_path):
    assert table_notices(table(tmp_path)) == []


def test_blanks_that_leave_mostly_positives_are_named_with_their_counts(tmp_path):
    rows = [[f"a{n}", *("1" if v else ("0" if n % 20 == 0 else "") for v in labels(n))] for n in range(60)]
    (line,) = table_notices(table(tmp_path, rows=rows))
    # by hand: 30 odd images have it, 0, 20 and 40 are written 0
    assert "'Cavity' (annotated in 33 of 60 images, 91% of them positive)" in line and "write 0" in line


def test_few_blanks_and_blanks_among_negatives_too_are_no_matter(tmp_path):
    few = [[f"a{n}", "" if n < 5 else n & 1, *labels(n)[1:]] for n in range(60)]
    honest = [[f"a{n}", "" if n % 2 else int(n % 6 == 0), *labels(n)[1:]] for n in range(60)]
    assert table_notices(table(tmp_path, rows=few)) == [] == table_notices(table(tmp_path, rows=honest))


@pytest.mark.parametrize(
    "name", ["Patient ID", "subject_id", "patientId", "PatientID", "lesion_id", "Study-UID", "patient", "MRN"]
)
def test_an_unread_column_of_patients_is_named_and_group_col_reads_it(tmp_path, name):
    rows = [[f"a{n}", *labels(n), f"{n // 6}"] for n in range(60)]
    columns = {"concept_cols": ["Cavity", "Nodule"], "target_cols": ["COPD", "Pneumonia"]}
    (line,) = table_notices(table(tmp_path, [*HEADER, name], rows, **columns))
    assert f"'{name}' is not read" in line and f"--group_col '{name}'" in line
    grouped = table(tmp_path, [*HEADER, name], rows, group_col=name)
    assert table_notices(grouped) == [] and grouped.concept_names == ("Cavity", "Nodule")
    train, validation = split_validation(grouped, fraction=0.2, seed=0)
    assert not {n // 6 for n in train.tolist()} & {n // 6 for n in validation.tolist()} and len(validation)


def test_the_error_on_a_column_of_patients_names_the_flag(tmp_path):
    rows = [[f"a{n}", *labels(n), f"{n // 6}"] for n in range(60)]
    with pytest.raises(InputError, match="column 'Patient ID': the value is '2'.*--group_col 'Patient ID'"):
        table(tmp_path, [*HEADER, "Patient ID"], rows)


@pytest.mark.parametrize(
    "name",
    [
        "id_patient",
        "PatID",
        "pid",
        "PatientName",
        "patient_key",
        "ParticipantBarcode",
        "case_id",
        "empi_anon",
    ],
)
def test_patients_are_known_by_many_names(name):
    assert means_group(name)


@pytest.mark.parametrize("name", ["Impatient", "Study quality", "Lesion size", "Cavity", "Patchy", "Casein"])
def test_findings_are_no_columns_of_patients(name):
    assert not means_group(name)


def test_a_group_column_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no column 'Patient' \(--group_col\); the file has"):
        table(tmp_path, group_col="Patient")
    with pytest.raises(InputError, match="that is no column of patients"):
        table(tmp_path, group_col="image_id")


def test_a_test_table_may_lack_the_group_column_or_have_it(tmp_path):
    train = table(
        tmp_path, [*HEADER, "Patient"], [[f"a{n}", *labels(n), f"{n}"] for n in range(9)], group_col="Patient"
    )
    for extra in ([], ["Patient"]):
        rows = [[f"t{n}", *labels(n), *([n] if extra else [])] for n in range(9)]
        path = write(tmp_path / "test.csv", [*HEADER, *extra], rows)
        test = read_label_table(path, vocabulary=train, group_col="Patient")
        assert (test.patient_ids is not None) == bool(extra)


def test_patients_12_and_12_point_0_are_one(tmp_path):
    train = table(tmp_path, [*HEADER, "patient_id"], [[f"a{n}", *labels(n), f"{n // 2}"] for n in range(6)])
    rows = [[f"t{n}", *labels(n), f"{n // 2}.0"] for n in range(4)]
    test = read_label_table(write(tmp_path / "test.csv", [*HEADER, "patient_id"], rows), vocabulary=train)
    assert shared_patients(train, test) == ["0", "1"]


@pytest.mark.parametrize(
    "name", ["Male", "Sex", "is_train", "fold", "frontal", "Unnamed: 0", "Cavity.1", "Age"]
)
def test_columns_named_like_no_finding_are_named(tmp_path, name):
    rows = [[f"a{n}", *labels(n), n % 2] for n in range(60)]
    (line,) = table_notices(table(tmp_path, [*HEADER, name], rows))
    assert line.startswith(f"'{name}': read as labels") and "--concept_cols" in line


def test_one_concept_has_no_negatives(tmp_path):
    rows = [[f"a{n}", n & 1, int(n % 3 == 0)] for n in range(24)]
    (line,) = table_notices(table(tmp_path, ["image_id", "Cavity", "COPD"], rows))
    assert "one concept" in line and "no negatives" in line


def test_concepts_that_always_come_together_have_no_negatives_unless_all_are(tmp_path):
    twins = table(tmp_path, rows=[[f"a{n}", n & 1, n & 1, int(n % 3 == 0), n & 1] for n in range(24)])
    (line,) = table_notices(twins)
    assert "--all_negatives" in line
    assert table_notices(twins, all_negatives=True) == []


def test_a_target_that_everybody_has_is_named(tmp_path):
    rows = [[f"a{n}", *labels(n)[:2], 1, n % 2] for n in range(24)]
    assert constant_targets(table(tmp_path, rows=rows)) == ["COPD"]


def test_an_empty_validation_set_is_refused_with_the_reason(tmp_path):
    three = table(tmp_path, rows=[[f"a{n}", *labels(n)] for n in range(3)])
    with pytest.raises(InputError, match="no image can be kept for validation, each of the 3 images"):
        split_validation(three, fraction=0.1, seed=0)


BOX = ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]


ROUNDED = [["a1", "Cavity", 0.1, 0.1, 0.5, 0.6], ["a2", "Cavity", 0.2, 0.1, 1.0000000001, 0.6]]


@pytest.mark.parametrize(
    "rows", [[["a1", "Cavity", 0.1, 0.1, 0.5, 0.6]], [["a1", "Cavity", 0, 0, 1, 1]], ROUNDED]
)
def test_boxes_in_fractions_are_refused(tmp_path, rows):
    path = write(tmp_path / "boxes.csv", BOX, rows)
    with pytest.raises(InputError, match="look like fractions of the image; give .* pixels"):
        read_boxes(path, table=table(tmp_path))


def test_a_small_box_among_others_is_a_box(tmp_path):
    path = write(tmp_path / "boxes.csv", BOX, [["a1", "Cavity", 0, 0, 1, 1], ["a3", "Cavity", 5, 5, 50, 60]])
    assert len(read_boxes(path, table=table(tmp_path))) == 2


def test_boxes_with_width_and_height_are_refused_with_the_formula(tmp_path):
    path = write(
        tmp_path / "boxes.csv", ["image_id", "class_name", "x", "y", "w", "h"], [["a1", "Cavity", 5, 5, 9, 9]]
    )
    with pytest.raises(InputError, match=re.escape("x_max = x + w")):
        read_boxes(path, table=table(tmp_path))
