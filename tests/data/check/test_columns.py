"""Columns by what they were taken for, empty cells and groups of small tables by hand."""

import pytest

from csr.data.check.columns import column_lines, column_roles, empty_cells, group_facts, group_warnings
from csr.data.labels.table import read_label_table


@pytest.fixture
def read(tmp_path):
    def read_text(text, **options):
        (tmp_path / "t.csv").write_text(text)
        return read_label_table(tmp_path / "t.csv", **options)

    return read_text


def test_every_column_has_one_role(read):
    table = read(
        "image_id,Lesion ID,rad_id,Mass,age,COPD\na,1,R,1,50,0\nb,1,R,0,60,1\n",
        concept_cols=("Mass",),
        group_col="Lesion ID",
    )
    roles = column_roles(table, group_col="Lesion ID")
    assert roles == {
        "image": ["image_id"],
        "reader": ["rad_id"],
        "group": ["Lesion ID"],
        "concept": ["Mass"],
        "target": ["COPD"],
        "ignored": ["age"],
    }
    lines = column_lines(roles)
    assert "  concepts: 'Mass'" in lines and "  ignored: 'age'" in lines


def test_without_a_group_column_a_patient_column_of_another_name_is_ignored(read):
    table = read("image_id,subject,Mass,COPD\na,1,1,0\nb,1,0,1\n", concept_cols=("Mass",))
    roles = column_roles(table, group_col=None)
    assert roles["group"] == [] and roles["ignored"] == ["subject"]


def test_empty_cells_are_counted_after_readers_are_merged(read):
    table = read("image_id,rad_id,Mass,Edema,COPD\na,R1,,1,0\na,R2,1,,0\nb,R1,,,1\n")
    assert empty_cells(table) == {"empty": 2, "of": 6, "by_label": {"Mass": 1, "Edema": 1}}


def test_groups_are_counted_and_odd_ones_told(read):
    rows = [f"i{n},{'unknown' if n < 8 else f'p{n // 2}'},{n % 2},{n % 3 % 2}" for n in range(20)]
    rows.append("last,,1,0")
    table = read("image_id,patient_id,Mass,COPD\n" + "\n".join(rows) + "\n")
    facts = group_facts(table)
    assert facts == {"groups": 7, "several": 7, "largest": "unknown", "largest_images": 8, "unknown": 1}
    lines = group_warnings("train", facts, len(table))
    assert len(lines) == 2 and "1 of 21 train images have no patient" in lines[0]
    assert "8 of 21 train images are of patient 'unknown'" in lines[1]


def test_groups_of_one_image_each_keep_nothing_together(read):
    table = read("image_id,patient_id,Mass,COPD\n" + "".join(f"i{n},{n},{n % 2},1\n" for n in range(5)))
    (line,) = group_warnings("train", group_facts(table), 5)
    assert "every train image has a patient of its own" in line
    assert group_warnings("train", None, 5) == []
