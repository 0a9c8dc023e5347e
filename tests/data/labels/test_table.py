"""The label table: contract of the CSV, readers, vocabulary, checks."""

import itertools

import numpy as np
import pytest

from csr.data.labels.table import (
    check_disjoint,
    check_positives,
    count_positives,
    drop_rare,
    read_label_table,
    shared_patients,
)
from csr.data.labels.vocabulary import Vocabulary
from csr.runtime.errors import InputError


def test_columns_become_concepts_and_targets_by_name(read):
    table = read("image_id,Mass,covid,pneumonia,No Finding,Other lesion\na,1,0,1,0,\n")
    assert table.concept_names == ("Mass", "covid", "Other lesion")
    assert table.target_names == ("pneumonia", "No Finding")
    np.testing.assert_array_equal(table.concept_NK, np.float32([[1, 0, np.nan]]))
    np.testing.assert_array_equal(table.target_NT, np.float32([[1, 0]]))
    assert table.concept_NK.dtype == table.target_NT.dtype == np.float32


def test_vindr_header_gives_22_concepts_and_6_targets(read):
    concepts = (
        "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,"
        "Edema,Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,"
        "Mediastinal shift,Nodule/Mass,Pleural effusion,Pleural thickening,Pneumothorax,"
        "Pulmonary fibrosis,Rib fracture,Other lesion"
    )
    targets = "COPD,Lung tumor,Pneumonia,Tuberculosis,Other diseases,No finding"
    table = read(f"image_id,rad_id,{concepts},{targets}\na,R1" + ",0" * 28 + "\n")
    assert table.concept_names == tuple(concepts.split(","))
    assert table.target_names == tuple(targets.split(","))


def test_readers_are_merged_as_a_plain_loop_does(read):
    cells = ["0", "1", ""]
    votes = list(itertools.product(cells, repeat=3))
    rows = [f"i{n},R{r},{vote[r]},0" for n, vote in enumerate(votes) for r in range(3)]
    text = "image_id,rad_id,Mass,COPD\n" + "\n".join(rows)
    merged = {how: read(text, reader_merge=how) for how in ("any", "majority", "soft")}
    for n, vote in enumerate(votes):
        marks = [int(v) for v in vote if v]
        wanted = {"any": np.nan, "majority": np.nan, "soft": np.nan}
        if marks:
            wanted = {
                "any": float(any(marks)),
                "majority": float(sum(marks) > len(marks) / 2),
                "soft": sum(marks) / len(marks),
            }
        for how, table in merged.items():
            np.testing.assert_allclose(table.concept_NK[n, 0], wanted[how], rtol=1e-6)
    assert merged["any"].num_readers_N.tolist() == [3] * len(votes)


def test_images_keep_the_order_in_which_they_first_appear_with_their_line(read):
    table = read("image_id,rad_id,M,COPD\nb,1,0,0\na,1,1,0\n\nb,2,1,0\nc,1,0,0\n")
    assert table.image_ids == ("b", "a", "c")
    assert table.row_numbers == (2, 3, 6)
    assert table.concept_NK[:, 0].tolist() == [1, 1, 0]


def test_a_row_written_twice_by_one_reader_counts_once(read):
    text = "image_id,rad_id,M,COPD\na,1,1,0\na,1,1,0\na,2,0,0\n"
    assert read(text, reader_merge="soft").concept_NK[0, 0] == 0.5


def test_one_reader_may_complete_but_not_contradict_an_earlier_row(read):
    assert read("image_id,rad_id,M,COPD\na,1,,0\na,1,1,\n").concept_NK[0, 0] == 1
    with pytest.raises(InputError, match=r"lines 2 and 4.*'a'.*'M'.*one reader"):
        read("image_id,rad_id,M,COPD\na,1,1,0\nb,1,1,0\na,1,0,0\n")
    with pytest.raises(InputError, match=r"lines 2 and 3.*no rad_id column"):
        read("image_id,M,COPD\na,1,0\na,0,0\n")


def test_byte_order_mark_quotes_windows_lines_and_blanks_are_understood(read):
    text = b'\xef\xbb\xbfImage_ID , "Nodule, or mass",COPD\r\n "a b", 1.0 ,0.0\r\n\r\n'
    table = read(text)
    assert table.image_ids == ("a b",)
    assert table.concept_names == ("Nodule, or mass",)
    assert (table.concept_NK[0, 0], table.target_NT[0, 0]) == (1, 0)


def test_empty_cells_are_missing_and_never_zero(read):
    table = read("image_id,M,COPD\na,,\nb,1,1\n")
    assert np.isnan(table.concept_NK[0, 0]) and np.isnan(table.target_NT[0, 0])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("image_id,M,COPD\n", "no rows"),
        ("id,M,COPD\na,1,0\n", "line 1: no column 'image_id'"),
        ("image_id;M;COPD\na;1;0\n", "separate columns with commas"),
        ("image_id\tM\na\t1\n", "separated with tabs; separate columns with commas"),
        ("image_id;" + ";".join(f"M{n}" for n in range(99)), "separated with semicolons"),
        ("image_id;a, b;M;COPD\na;1;0\n", "separated with semicolons"),
        ("image_id\na\n", "no concept column"),
        ("image_id,M\na,1\n", "no target column"),
        ("image_id,COPD\na,1\n", "no concept column"),
        ("image_id,M,COPD\na,2,0\n", "line 2, column 'M': the value is '2'"),
        ("image_id,M,COPD\na,1,0\nb,1,yes\n", "line 3, column 'COPD'"),
        ("image_id,M,COPD\na,=1,0\n", "'=1'"),
        ("image_id,M,COPD\na,nan,0\n", "'nan'"),
        ("image_id,M,COPD\na,-1,0\n", "'-1'"),
        ("image_id,M,COPD\na,\uff11,0\n", "uff11"),
        ("image_id,M,COPD\na,1\n", "line 2: 2 cells where the header has 3"),
        ("image_id,M,COPD\na,1,0,1\n", "line 2: 4 cells"),
        ("image_id,M,M,COPD\na,1,0,1\n", "columns 2 and 3 have the same name"),
        ("image_id,Other disease,M,Other diseases\na,1,0,1\n", "columns 2 and 4 have the same"),
        ("image_id,M,m ,COPD\na,1,0,1\n", "columns 2 and 3 have the same name"),
        ("image_id,Mass,M\u0430ss,COPD\na,1,0,1\n", "columns 2 and 3 have the same name"),
        ("image_id,Mass,Mass\u200b,COPD\na,1,0,1\n", "columns 2 and 3 have the same name"),
        ("im\u0430ge_id,M,COPD\na,1,0\n", "looks like 'image_id'"),
        ("image_id,M,\u0421OPD\na,1,0\n", "looks like 'COPD'"),
        (",image_id,M,COPD\n0,a,1,0\n", "column 1 has no name"),
        ("image_id,M,COPD\n,1,0\n", "line 2: image_id '' is empty"),
        ("image_id,M,COPD\n../a,1,0\n", "leaves the image folder"),
        ("image_id,M,COPD\n/etc/a,1,0\n", "absolute path"),
        ("image_id,M,COPD\nC:/a,1,0\n", "absolute path"),
        ("image_id,M,COPD\na\\b,1,0\n", "backslash"),
        ("image_id,M,COPD\n=A1,1,0\n", "formula"),
        ('image_id,M,COPD\n"a\nb",1,0\n', "control characters"),
        ("image_id,M,COPD\na,1,0\na.png,1,0\n", "lines 2 and 3.*name one image"),
        (b"image_id,M,COPD\na\0,1,0\n", "line 2: holds NUL bytes"),
        ("image_id,M,COPD\na,1,0\n".encode("utf-16"), "line 1: holds NUL bytes"),
        ("image_id,M,COPD\na,1,0\nb\xe9,1,0\n".encode("latin-1"), "line 3: byte 0xe9 is not UTF-8"),
        ('image_id,M,COPD\na,"1,0\n', "line 2.*quotes"),
        ('image_id,M,COPD\na,"1"x,0\n', "line 2"),
        ("image_id,M,COPD\ra,1,0\r", "line ends"),
        ("image_id,M,COPD\na," + "1" * 200_000 + ",0\n", "line 2: field larger than"),
        ("image_id,M,COPD\na," + "1" * 2_000_000 + ",0\n", "line 2: longer than 1 MiB"),
        ("image_id,M,COPD\na," + "9" * 99_000 + ",0\n", "line 2, column 'M'"),
        ("image_id,patient_id,M,COPD\na,p,1,0\na,q,1,0\n", "line 3.*patient 'q'"),
    ],
)
def test_a_bad_file_gets_one_short_line_that_names_it(read, text, expected):
    with pytest.raises(InputError, match=expected) as caught:
        read(text)
    message = str(caught.value)
    assert "labels.csv" in message
    assert "\n" not in message and len(message) < 600 and message.isprintable()


@pytest.mark.parametrize("path", ["missing.csv", ".", "/dev/zero", "nul\0.csv"])
def test_what_is_no_file_is_refused(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="give the path of a CSV file"):
        read_label_table(path)


def test_named_targets_leave_all_other_columns_as_concepts(read):
    table = read("image_id,a,b,COPD\nx,1,0,1\n", target_cols=["B"])
    assert (table.concept_names, table.target_names) == (("a", "COPD"), ("b",))


def test_named_concepts_leave_targets_to_be_found_by_name(read):
    table = read("image_id,a,b,COPD\nx,1,0,1\n", concept_cols=["b"])
    assert (table.concept_names, table.target_names) == (("b",), ("COPD",))
    assert table.ignored_names == ("a",)


def test_columns_without_a_role_are_not_even_checked(read):
    table = read("image_id,sex,a,b\nx,F,1,0\n", concept_cols=["a"], target_cols=["b"])
    assert table.ignored_names == ("sex",)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"concept_cols": ["zz"]}, "no label column 'zz'"),
        ({"target_cols": ["image_id"]}, "no label column 'image_id'"),
        ({"concept_cols": ["a", "A"]}, "twice"),
        ({"concept_cols": ["a"], "target_cols": ["a"]}, "in --concept_cols and in --target_cols"),
        ({"target_cols": ["a", "b", "COPD"]}, "no concept column"),
        ({"concept_cols": []}, "no concept column"),
        ({"reader_merge": "most"}, "any, majority, soft"),
    ],
)
def test_wrong_column_choices_are_named(read, options, expected):
    with pytest.raises(InputError, match=expected):
        read("image_id,a,b,COPD\nx,1,0,1\n", **options)


def test_the_training_file_freezes_names_and_order(read):
    train = read("image_id,a,b,Other diseases,COPD\nx,1,0,1,0\n")
    test = read("COPD,other disease,B,image_id,A\n1,0,1,y,0\n", vocabulary=train)
    assert (test.concept_names, test.target_names) == (train.concept_names, train.target_names)
    assert test.concept_NK.tolist() == [[0, 1]] and test.target_NT.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "header, expected",
    [
        ("image_id,a,COPD", "lacks 'b'"),
        ("image_id,a,b,c,COPD", "also has 'c'"),
        ("image_id,a,\u042c,COPD", "lacks 'b' and also has"),
        ("image_id,\u0430,b,COPD", "letters of another alphabet"),
    ],
)
def test_test_columns_that_differ_from_training_are_refused(read, header, expected):
    train = read("image_id,a,b,COPD\nx,1,0,1\n")
    row = "y" + ",0" * header.count(",")
    with pytest.raises(InputError, match=expected):
        read(f"{header}\n{row}\n", vocabulary=train)


def test_dropped_and_omitted_columns_may_stay_in_the_test_file(read):
    text = "image_id,a,b,c,COPD\nx,1,0,1,1\n"
    train, dropped = drop_rare(read(text, concept_cols=["a", "b"]), 1)
    assert dropped == ("b",) and train.concept_names == ("a",)
    assert read(text, vocabulary=train).concept_names == ("a",)
    names = Vocabulary(("a",), ("COPD",))
    assert read(text, vocabulary=names).target_names == ("COPD",)


def test_concepts_without_a_positive_image_are_named_and_can_be_dropped(read):
    table = read("image_id,a,b,c,COPD\nx,1,0,,0\ny,1,0,,0\n")
    assert count_positives(table.concept_NK).tolist() == [2, 0, 0]
    with pytest.raises(InputError, match="'b'; 'c'.*--drop_rare 1"):
        check_positives(table)
    smaller, dropped = drop_rare(table, 1)
    assert dropped == ("b", "c")
    assert smaller.concept_NK.shape == (2, 1) and smaller.target_names == ("COPD",)
    check_positives(smaller)
    with pytest.raises(InputError, match="lower --drop_rare"):
        drop_rare(table, 3)


def test_images_and_patients_in_both_tables_are_found_whatever_their_spelling(read):
    train = read("image_id,patient_id,a,COPD\nx.png,p1,1,0\nsub/y,p2,1,0\nz,,1,0\n")
    for name in ("x", "x.JPG", "./x", "sub//y.dcm"):
        test = read(f"image_id,a,COPD\n{name},1,0\n")
        with pytest.raises(InputError, match=r"share 1 image.*lines \d and 2"):
            check_disjoint(train, test)
    test = read("image_id,patient_id,a,COPD\nq,p2,1,0\nr,,1,0\n")
    check_disjoint(train, test)
    assert shared_patients(train, test) == ["p2"]
    check_disjoint(train, read("image_id,patient_id,a,COPD\nX,p3,1,0\n"))


def test_select_takes_rows_in_the_given_order(read):
    table = read("image_id,patient_id,a,COPD\nx,p,1,0\ny,q,0,1\nz,r,1,1\n").select([2, 0])
    assert table.image_ids == ("z", "x") and table.patient_ids == ("r", "p")
    assert table.row_numbers == (4, 2) and table.target_NT.tolist() == [[1], [0]]
    assert table.where(0).endswith("labels.csv line 4 (image 'z')")
