"""Groups of images by a column: one value for each image, unknown ones kept, measures refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from csr.data.labels.table import LabelTable, read_label_table
from csr.data.labels.vocabulary import Vocabulary
from csr.evaluation.subgroups import MAX_GROUPS, NOT_GIVEN, read_groups
from csr.runtime.errors import InputError


def written(folder: Path, rows: list[str]) -> tuple[Path, LabelTable]:
    path = folder / "labels.csv"
    path.write_text("\n".join(["image_id,rad_id,Nodule,COPD,Sex", *rows]) + "\n")
    return path, read_label_table(path, vocabulary=Vocabulary(("Nodule",), ("COPD",)))


def test_the_readers_of_an_image_share_its_value(tmp_path):
    path, table = written(tmp_path, ["a,1,0,1,f", "a,2,0,0,", "b.png,1,1,1,m", "c,1,0,0,m", "d,1,0,0,"])
    groups = {value: places.tolist() for value, places in read_groups(path, "sex", table=table).items()}
    assert groups == {"m": [1, 2], NOT_GIVEN: [3], "f": [0]} and list(groups)[0] == "m"


def test_an_image_with_two_values_is_refused(tmp_path):
    path, table = written(tmp_path, ["a,1,0,1,f", "a,2,0,0,m"])
    with pytest.raises(InputError, match=r"line 3, column 'sex': 'm', but another row of image 'a' has 'f'"):
        read_groups(path, "sex", table=table)


def test_an_unknown_column_is_refused_with_those_that_there_are(tmp_path):
    path, table = written(tmp_path, ["a,1,0,1,f"])
    with pytest.raises(InputError, match="no column 'hospital'.*'Sex'"):
        read_groups(path, "hospital", table=table)


def test_a_measure_makes_too_many_groups(tmp_path):
    path, table = written(tmp_path, [f"a{i},1,0,1,{i}" for i in range(MAX_GROUPS + 1)])
    with pytest.raises(InputError, match="51 different values.*ranges"):
        read_groups(path, "sex", table=table)
