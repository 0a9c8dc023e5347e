"""`csr data padchest`: lists in cells, physicians' labels in the test, patients on one side, broken files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import raw_chest_sets

from csr.data.importers.chest.padchest_labels import is_test_patient, label_list
from csr.runtime.errors import InputError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return raw_chest_sets.padchest(tmp_path / "raw")


# of the first eight bytes of the sha256 of p1 .. p7, as shares of 2**64
SHARES = {
    p: int(hashlib.sha256(p.encode()).hexdigest()[:16], 16) / 16**16 for p in map("p{}".format, range(1, 8))
}
FLAGS = ("--min_images", "1", "--test_fraction", "0.3")


def test_patients_labels_and_folders(raw, bring_in, rows_of, capsys):
    out = bring_in("padchest", raw, *FLAGS)
    train, test = rows_of(out / "labels_train.csv"), rows_of(out / "labels_test.csv")
    expected: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for image, archive, patient, view, method, labels in raw_chest_sets.PADCHEST_ROWS:
        for_test = SHARES[patient] < 0.3
        labeled = labels not in ("nan", "['exclude']") and not (for_test and method == "RNN_model")
        if view in ("PA", "AP_horizontal") and labeled:
            expected[for_test].append((f"{archive}/{image}.png", patient))
    assert [(r["image_id"], r["patient_id"]) for r in train] == expected[False]
    assert [(r["image_id"], r["patient_id"]) for r in test] == expected[True]
    assert expected[True] and expected[False]
    text = capsys.readouterr().out
    assert "10 rows of PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv here" in text
    assert "published with 160,861" in text
    assert "2 images of other views are left out (--views frontal): 'L' 1, 'COSTAL' 1" in text
    assert "2 images are left out: without labels, or labeled exclude or unchanged" in text
    assert "1 images are left out: of test patients, not labeled by a physician" in text


def test_labels_become_columns(raw, bring_in, rows_of):
    concepts = ("infiltrates", "pleural effusion")
    out = bring_in(
        *("padchest", raw, *FLAGS, "--concepts", *concepts, "--targets", "pneumonia", "copd signs", "normal")
    )
    rows = [*rows_of(out / "labels_train.csv"), *rows_of(out / "labels_test.csv")]
    columns = (*concepts, "pneumonia", "COPD signs", "normal")
    assert {r["image_id"]: [int(r[name]) for name in columns] for r in rows if r["patient_id"] != "p6"} == {
        "0/a1.png": [0, 0, 0, 0, 1],
        "0/a7.png": [1, 1, 1, 0, 0],
        "1/a3.png": [1, 0, 1, 0, 0],
        "1/a4.png": [0, 1, 0, 1, 0],
    }


def test_defaults_are_diagnoses_and_findings_with_enough_images(raw, bring_in, rows_of, capsys):
    out = bring_in("padchest", raw, *FLAGS)
    columns = [*rows_of(out / "labels_train.csv")[0]][2:]
    assert "suboptimal study" not in columns and "infiltrates" in columns
    assert "--target_cols" in capsys.readouterr().out
    with pytest.raises(InputError, match="PadChest: no concepts are left; name some with --concepts"):
        bring_in("padchest", raw, "--test_fraction", "0.3", out="other")


def test_training_on_labels_of_physicians_alone(raw, bring_in, rows_of, capsys):
    out = bring_in(*("padchest", raw, *FLAGS, "--labeled_by", "physician", "--views", "all"))
    by_network = {
        f"{archive}/{i}.png" for i, archive, *_, m, _ in raw_chest_sets.PADCHEST_ROWS if m != "Physician"
    }
    rows = [*rows_of(out / "labels_train.csv"), *rows_of(out / "labels_test.csv")]
    assert len(rows) == 6 and not by_network & {row["image_id"] for row in rows}
    assert "not labeled by a physician (--labeled_by physician)" in capsys.readouterr().out


def test_files_that_do_not_open_stop_or_are_listed(raw, bring_in, rows_of, tmp_path, capsys):
    (raw / "0" / "a1.png").write_bytes(b"")
    whole = (raw / "1" / "a4.png").read_bytes()
    (raw / "1" / "a4.png").write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"image\(s\) cannot be used: "):
        bring_in("padchest", raw, *FLAGS)
    (raw / "0" / "a7.png").unlink()
    (tmp_path / "list.txt").write_text("a7.png\n")
    (raw / "0" / "a10.png").write_bytes(whole)
    table = raw / raw_chest_sets.PADCHEST_TABLE
    copy = table.read_text().splitlines()[1].replace("a1.png", "a10.png")
    table.write_text(f"{table.read_text()}{copy}\n")
    out = bring_in(*("padchest", raw, *FLAGS, "--on_bad_image", "omit", "--omit", str(tmp_path / "list.txt")))
    reasons = {row["image_id"]: row["reason"] for row in rows_of(out / "omitted.csv")}
    assert {*reasons} == {"0/a1", "0/a7", "1/a4"}
    assert "cannot be opened as an image" in reasons["0/a1"] and "is cut short" in reasons["1/a4"]
    assert "3 images are left out (1 by --omit, 2 missing or unreadable)" in capsys.readouterr().out


def test_a_hash_decides_on_the_side_of_a_patient():
    assert [is_test_patient(p, 0.3) for p in SHARES] == [share < 0.3 for share in SHARES.values()]
    drawn = sum(is_test_patient(str(n), 0.2) for n in range(10_000))
    assert abs(drawn - 2000) < 5 * 40  # five standard deviations of a binomial


@pytest.mark.parametrize(
    "text, labels",
    [
        ("['a', ' b ', '', 'a']", ["a", "b"]),
        ("""["aortic's", 'c']""", ["aortic's", "c"]),
        ("[]", []),
        ("nan", []),
        ("", []),
    ],
)
def test_a_cell_holds_a_list(text, labels):
    assert label_list(text, location="x") == labels


@pytest.mark.parametrize("text", ["a", "['a'", "[a]", "['a' 'b']", "__import__('os')", "['a',]"])
def test_what_is_no_list_is_refused(text):
    with pytest.raises(InputError, match="x: Labels .* is no list"):
        label_list(text, location="x")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("Physician", "Nobody", "line 2: MethodLabel 'Nobody' is none of Physician, RNN_model"),
        (",p1,", ",,", "line 2: PatientID is empty"),
        ("['normal']", "normal", "line 2: Labels 'normal' is no list"),
        ("ImageDir", "Dir", "line 1: no column 'ImageDir'"),
    ],
)
def test_an_odd_table_is_one_line(raw, bring_in, old, new, message):
    path = raw / raw_chest_sets.PADCHEST_TABLE
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        bring_in("padchest", raw, *FLAGS)
