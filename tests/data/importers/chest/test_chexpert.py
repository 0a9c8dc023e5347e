"""`csr data chexpert`: -1 and blanks, views, patients, every layout of the archives."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import raw_chest_sets
from train_command import SMALL, train

from csr.cli.data import main
from csr.data.images.find import find_images
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError

FRONTAL = "train/patient00002/study2/view1_frontal.jpg"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return raw_chest_sets.chexpert(tmp_path / "raw" / "CheXpert-v1.0-small")


def row_of(rows: list[dict[str, str]], image: str) -> dict[str, str]:
    (row,) = [row for row in rows if row["image_id"] == image]
    return row


def test_the_frontal_images_of_both_tables_are_found_with_their_patients(raw, bring_in, rows_of, capsys):
    out = bring_in("chexpert", raw)
    train_rows, test_rows = rows_of(out / "labels_train.csv"), rows_of(out / "labels_test.csv")
    assert [(r["image_id"], r["patient_id"]) for r in train_rows] == [
        ("train/patient00001/study1/view1_frontal.jpg", "patient00001"),
        (FRONTAL, "patient00002"),
        ("train/patient00002/study1/view1_frontal.jpg", "patient00002"),
        ("train/patient00003/study1/view1_frontal.jpg", "patient00003"),
    ]
    assert [r["patient_id"] for r in test_rows] == ["patient64541", "patient64542"]
    table = read_label_table(out / "labels_train.csv")
    assert table.target_names == ("No Finding", "Pneumonia") and len(table.concept_names) == 12
    assert [path.is_file() for path in find_images(out / "images", table)] == [True] * 4
    text = capsys.readouterr().out
    assert "5 rows of train.csv here; CheXpert was published with 223,414" in text
    assert "3 rows of valid.csv here; CheXpert was published with 234" in text
    assert "2 images of other views are left out (--views frontal): 'Lateral' 2" in text
    assert "train: 4 images of 3 patients" in text and "--boxes_csv" not in text
    assert not (out / "boxes_train.csv").exists() and not (out / "omitted.csv").exists()


@pytest.mark.parametrize("policy, cell", [("ones", "1"), ("zeros", "0"), ("ignore", "")])
def test_uncertain_cells_become_what_was_asked_for(raw, bring_in, rows_of, policy, cell, capsys):
    rows = rows_of(bring_in("chexpert", raw, "--uncertain", policy) / "labels_train.csv")
    row = row_of(rows, FRONTAL)
    assert (row["Edema"], row["Pneumonia"], row["Cardiomegaly"]) == (cell, cell, "1")
    assert (
        f"2 cells are -1, uncertain: {cell or 'empty (not annotated)'} (--uncertain {policy})"
        in capsys.readouterr().out
    )


def test_uncertain_cells_may_be_two_thirds_which_are_no_readers(raw, bring_in, rows_of, capsys):
    out = bring_in("chexpert", raw, "--uncertain", "soft")
    text = capsys.readouterr().out
    assert (
        "2 cells are -1, uncertain: 2 of 3, three rows of an average and no readers (--uncertain soft)"
        in text
    )
    assert "readers each" not in text
    assert text.count("--reader_merge soft") == 2
    rows = rows_of(out / "labels_train.csv")
    assert [row["rad_id"] for row in rows if row["image_id"].startswith(FRONTAL[:-4])] == [
        f"labeler (average {number} of 3)" for number in (1, 2, 3)
    ]
    assert {row["rad_id"] for row in rows if row["image_id"] != FRONTAL} == {"published"}
    table = read_label_table(out / "labels_train.csv", reader_merge="soft")
    assert len(table) == 4
    at = next(n for n, image in enumerate(table.image_ids) if image.startswith(FRONTAL[:-4]))
    label = {
        **dict(zip(table.concept_names, table.concept_NK[at], strict=True)),
        **dict(zip(table.target_names, table.target_NT[at], strict=True)),
    }
    assert label["Edema"] == label["Pneumonia"] == pytest.approx(2 / 3)
    assert (label["Cardiomegaly"], label["No Finding"]) == (1.0, 0.0)
    assert table.num_readers_N.tolist() == [1] * 4
    columns = ["--target_cols", "No Finding", "Pneumonia"]
    main(["check", str(out / "labels_train.csv"), str(out / "images"), *columns, "--reader_merge", "soft"])
    text = capsys.readouterr().out
    assert "1 image with a labeler's -1, written as 2 of 3" in text and "becomes 1" not in text
    assert "kappa" not in text and "Readers:" not in text and "(readers:" not in text
    main(["check", str(out / "labels_train.csv"), str(out / "images"), *columns])
    assert "merged by 'any', a labeler's -1 becomes 1 (1 image with some)" in capsys.readouterr().out


def test_without_a_flag_uncertain_is_not_annotated_and_blank_is_zero(raw, bring_in, rows_of):
    row = row_of(rows_of(bring_in("chexpert", raw) / "labels_train.csv"), FRONTAL)
    assert (row["Edema"], row["Fracture"], row["No Finding"]) == ("", "0", "0")


def test_blanks_may_be_left_out_but_of_no_finding_they_are_zeros(raw, bring_in, rows_of, capsys):
    rows = rows_of(bring_in("chexpert", raw, "--blank", "ignore") / "labels_train.csv")
    row = row_of(rows, "train/patient00002/study1/view1_frontal.jpg")
    assert (row["Edema"], row["Fracture"], row["Atelectasis"], row["No Finding"]) == ("0", "1", "", "0")
    # 6 frontal rows of 13 labels besides 'No Finding', with 7 of them given
    assert "71 cells are blank" in capsys.readouterr().out


@pytest.mark.parametrize("views, count", [("frontal", 4), ("lateral", 1), ("all", 5)])
def test_views_are_chosen(raw, bring_in, rows_of, views, count):
    assert len(rows_of(bring_in("chexpert", raw, "--views", views) / "labels_train.csv")) == count


def test_concepts_and_targets_are_chosen(raw, bring_in, rows_of, capsys):
    out = bring_in("chexpert", raw, "--concepts", "cardiomegaly", "Fracture", "--targets", "Edema")
    assert [*rows_of(out / "labels_train.csv")[0]] == [
        "image_id",
        "patient_id",
        "Cardiomegaly",
        "Fracture",
        "Edema",
    ]
    assert capsys.readouterr().out.count("--target_cols Edema") == 2
    out = bring_in("chexpert", raw, "--targets", "Edema", out="other")
    names = read_label_table(out / "labels_train.csv", target_cols=["Edema"]).concept_names
    assert "Pneumonia" in names and "No Finding" not in names


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--concepts", "Tumor"], "--concepts: 'Tumor' is no label of CheXpert; it has 'No Finding'; "),
        (["--concepts", "Edema", "edema"], "--concepts names 'Edema' twice"),
        (["--concepts", "Edema", "--targets", "Edema"], "'Edema' is in --concepts and in --targets"),
        (["--concepts", "No Finding", "Pneumonia"], "no targets are left; name some with --targets"),
        (["--uncertain", "some"], "invalid choice: 'some'"),
    ],
)
def test_senseless_choices_are_one_line(raw, bring_in, flags, message):
    with pytest.raises(InputError, match=message):
        bring_in("chexpert", raw, *flags)


def test_raw_may_be_the_folder_above_or_hold_the_tables_apart(raw, bring_in, rows_of):
    wanted = rows_of(bring_in("chexpert", raw, out="a") / "labels_train.csv")
    assert rows_of(bring_in("chexpert", raw.parent, out="b") / "labels_train.csv") == wanted
    for name in ("train.csv", "valid.csv"):
        shutil.move(raw / name, raw.parent / name)
    assert rows_of(bring_in("chexpert", raw.parent, out="c") / "labels_train.csv") == wanted


def test_the_batches_of_the_full_archive_are_found(tmp_path, bring_in, rows_of):
    small = raw_chest_sets.chexpert(tmp_path / "small", prefix="CheXpert-v1.0")
    raw = tmp_path / "raw"
    first = raw / "CheXpert-v1.0 batch 1 (validate & csv)"
    shutil.copytree(small / "valid", first / "valid")
    for name in ("train.csv", "valid.csv"):
        shutil.copy(small / name, first / name)
    for patient, batch in ((1, "batch 2 (train 1)"), (2, "batch 3 (train 2)"), (3, "batch 4 (train 3)")):
        name = f"patient0000{patient}"
        shutil.copytree(small / "train" / name, raw / f"CheXpert-v1.0 {batch}" / name)
    out = bring_in("chexpert", raw)
    images = [row["image_id"] for row in rows_of(out / "labels_train.csv")]
    assert images[1] == "CheXpert-v1.0 batch 3 (train 2)/patient00002/study2/view1_frontal.jpg"
    assert all((out / "images" / image).is_file() for image in images)
    assert len(rows_of(out / "labels_test.csv")) == 2


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("-1.0", "2", "train.csv line 3, column 'Edema': '2' is not 0, 1, -1 or blank"),
        ("train/patient00003", "valid/patient00003", "train.csv line 6: Path .* is not CheXpert-v1.0/train/"),
        ("train/patient00003", "train/../secret", "train.csv line 6: Path"),
        ("patient00003/study1", "patient00002/study1", "line 6: image .* is already in .*train.csv line 5"),
        ("Frontal/Lateral", "View", "train.csv line 1: no column 'Frontal/Lateral'"),
        ("Fracture", "Edema", "train.csv line 1: more than one column 'Edema'"),
    ],
)
def test_an_odd_table_is_one_line(raw, bring_in, old, new, message, tmp_path):
    path = raw / "train.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        bring_in("chexpert", raw)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_missing_images_stop_or_are_listed(raw, bring_in, rows_of, capsys):
    (raw / FRONTAL).unlink()
    with pytest.raises(InputError, match=r"1 image\(s\) cannot be used: .*line 3: .*--on_bad_image omit"):
        bring_in("chexpert", raw)
    out = bring_in("chexpert", raw, "--on_bad_image", "omit")
    assert len(rows_of(out / "labels_train.csv")) == 3
    (row,) = rows_of(out / "omitted.csv")
    assert row["image_id"] == FRONTAL.removesuffix(".jpg") and "is not in" in row["reason"]
    assert "1 images are left out (0 by --omit, 1 missing or unreadable)" in capsys.readouterr().out


def test_images_of_a_list_are_left_out(raw, bring_in, rows_of, tmp_path, capsys):
    third = "CheXpert-v1.0-small/train/patient00003/study1/view1_frontal"
    (tmp_path / "list.txt").write_text(f"{FRONTAL}\n\nview1_frontal.jpg\n{third}\n")
    out = bring_in("chexpert", raw, "--omit", str(tmp_path / "list.txt"))
    assert [row["image_id"] for row in rows_of(out / "labels_train.csv")] == [
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00002/study1/view1_frontal.jpg",
    ]
    text = capsys.readouterr().out
    assert "(2 by --omit, 0 missing or unreadable)" in text
    assert "1 lines of" in text and "(the first: 'view1_frontal')" in text
    for content, message in (("", "names no image"), ("\udcff", "not UTF-8")):
        (tmp_path / "list.txt").write_text(content, errors="surrogateescape")
        with pytest.raises(InputError, match=f"--omit .*{message}"):
            bring_in("chexpert", raw, "--omit", str(tmp_path / "list.txt"), out="other")


def test_no_image_left_is_one_line(raw, bring_in):
    shutil.rmtree(raw / "train")
    with pytest.raises(InputError, match="no train image is left of 4 rows"):
        bring_in("chexpert", raw, "--on_bad_image", "omit")


@pytest.mark.slow
@pytest.mark.dist
def test_what_was_imported_trains(raw, bring_in, tmp_path):
    out = bring_in("chexpert", raw, "--concepts", "Cardiomegaly", "Fracture", "--uncertain", "ones")
    small = [word for flag, value in SMALL.items() for word in (f"--{flag}", value)]
    done = train(
        *(
            "--recipe",
            "paper",
            *small,
            "--no_pretrained",
            "--dry_run",
            "--output_dir",
            str(tmp_path / "runs"),
        ),
        *("--train_csv", str(out / "labels_train.csv"), "--train_dir", str(out / "images")),
        *("--test_csv", str(out / "labels_test.csv"), "--test_dir", str(out / "images")),
        *("--num_prototypes", "1", "--val_fraction", "0.4"),
    )
    assert done.returncode == 0, done.stderr
    assert "Dry run done" in done.stdout
