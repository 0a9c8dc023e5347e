"""`csr data vindr`: PhysioNet's files become the data contract, and what is odd is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import raw_sets
from pydicom import dcmread

from csr.data.images.decode import read_image
from csr.data.images.find import find_images
from csr.data.importers.vindr import DIAGNOSES, FINDINGS
from csr.data.labels.boxes import read_boxes
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_sets.vindr(tmp_path_factory.mktemp("vindr") / "raw", num_train=8, num_test=4)


@pytest.fixture
def raw(published: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(published, tmp_path / "raw"))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_tables_have_the_published_labels_and_csr_reads_them(published, bring_in, rows_of):
    out = bring_in("vindr", published)
    source = rows_of(published / "annotations" / "image_labels_train.csv")
    written = rows_of(out / "labels_train.csv")
    renamed = [{k.replace("Other diseases", "Other disease"): v for k, v in row.items()} for row in source]
    assert written == renamed
    train = read_label_table(out / "labels_train.csv")
    assert (train.concept_names, train.target_names) == (FINDINGS, DIAGNOSES)
    assert train.num_readers_N.tolist() == [3] * 8
    np.testing.assert_array_equal(train.concept_NK.argmax(1), np.arange(8))
    np.testing.assert_array_equal(train.target_NT.argmax(1), np.arange(8) % 6)
    assert read_label_table(out / "labels_test.csv", vocabulary=train).num_readers_N.tolist() == [1] * 4


def test_boxes_keep_their_readers_and_no_finding_has_none(published, bring_in, rows_of):
    out = bring_in("vindr", published)
    source = [r for r in rows_of(published / "annotations" / "annotations_train.csv") if r["x_min"]]
    written = rows_of(out / "boxes_train.csv")
    boxes = [
        (r["image_id"], r["rad_id"], r["class_name"], *(float(r[s]) for s in ("x_min", "y_max")))
        for r in written
    ]
    assert boxes == [
        (r["image_id"], r["rad_id"], r["class_name"], float(r["x_min"]), float(r["y_max"])) for r in source
    ]
    boxes = read_boxes(out / "boxes_test.csv", table=read_label_table(out / "labels_test.csv"))
    assert len(boxes) == 4 and not boxes.ignored


def test_the_images_are_found_through_the_link_and_show_the_dicom_pixels(published, bring_in):
    out = bring_in("vindr", published)
    assert (out / "train").is_symlink()
    paths = find_images(out / "train", read_label_table(out / "labels_train.csv"))
    stored = dcmread(paths[0]).pixel_array.astype(float)
    wanted = np.rint((stored - stored.min()) / (stored.max() - stored.min()) * 255)
    np.testing.assert_allclose(read_image(paths[0]), wanted, atol=1)


def test_a_box_that_the_readers_own_label_denies_is_reported(raw, bring_in, capsys):
    replace(raw / "annotations" / "annotations_train.csv", "Aortic enlargement", "Pneumothorax")
    bring_in("vindr", raw)
    assert "1 train boxes show a finding that the same reader's label denies" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, old, new, expected",
    [
        ("image_labels_train.csv", "Other diseases", "Other things", "line 1: no column 'Other disease'"),
        (
            "image_labels_train.csv",
            "Cardiomegaly",
            "Cardiomegaly,Other",
            "line 1: .* has no column 'Other'|cells",
        ),
        ("image_labels_train.csv", ",R1,1", ",R1,2", "line 2, column 'Aortic enlargement': '2'"),
        ("image_labels_train.csv", ",R2,", ",R1,", "line 3: image .* and reader 'R1' have two rows"),
        ("image_labels_train.csv", "r" + "0" * 31, "../r" + "0" * 31, "line 2: .*leaves the image folder"),
        ("image_labels_train.csv", "r" + "0" * 31, "/r" + "0" * 31, "line 2: .*absolute"),
        ("image_labels_train.csv", "r" + "0" * 31, "f" * 32, "line 2: image .* is not in"),
        ("image_labels_test.csv", "e" + "0" * 31, "r" + "0" * 31, "line 2: image .* is not in"),
        (
            "annotations_train.csv",
            "Aortic enlargement,3.25",
            "Aortic enlargement,x",
            "line 2: .* not four numbers",
        ),
        (
            "annotations_train.csv",
            "Aortic enlargement,3.25",
            "Aortic enlargement,33.25",
            "line 2: .* no area",
        ),
        (
            "annotations_train.csv",
            "Aortic enlargement,3.25",
            "Aortic enlargement,-9",
            "line 2: .* leaves its image",
        ),
        (
            "annotations_train.csv",
            "Aortic enlargement,3.25",
            "Fracture,3.25",
            "line 2: class_name 'Fracture'",
        ),
        ("annotations_train.csv", ",R1,", ",R9,", "line 2: image .* and reader 'R9' has no row"),
        ("annotations_train.csv", "No finding,,,,", "No finding,1,,,", "a box of 'No finding'"),
    ],
)
def test_what_is_not_as_published_is_named_with_file_and_line(
    raw, bring_in, tmp_path, name, old, new, expected
):
    replace(raw / "annotations" / name, old, new)
    with pytest.raises(InputError, match=f"{name} {expected}|{expected}") as caught:
        bring_in("vindr", raw)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    "missing",
    [
        "annotations/image_labels_test.csv",
        "annotations/annotations_train.csv",
        "test",
        "train/r" + "0" * 31 + ".dicom",
    ],
)
def test_missing_files_are_named(raw, bring_in, missing):
    path = raw / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=path.stem):
        bring_in("vindr", raw)


def test_an_image_of_both_splits_is_refused(raw, bring_in):
    image = "r" + "0" * 31
    shutil.copy(raw / "train" / f"{image}.dicom", raw / "test")
    replace(raw / "annotations" / "image_labels_test.csv", "e" + "0" * 31, image)
    with pytest.raises(InputError, match="in the training and in the test labels"):
        bring_in("vindr", raw)


def test_a_link_out_of_the_image_folder_is_not_followed(raw, bring_in, tmp_path):
    path = raw / "train" / ("r" + "0" * 31 + ".dicom")
    path.rename(tmp_path / "elsewhere.dicom")
    path.symlink_to(tmp_path / "elsewhere.dicom")
    with pytest.raises(InputError, match="line 2: a link leads out of the image folder .*--links_into"):
        bring_in("vindr", raw, "--images", "copy")


def test_an_empty_cell_stays_empty(raw, bring_in):
    replace(raw / "annotations" / "image_labels_test.csv", "e" + "0" * 31 + ",1,0", "e" + "0" * 31 + ",1,")
    table = read_label_table(bring_in("vindr", raw) / "labels_test.csv")
    assert np.isnan(table.concept_NK[0]).tolist() == [False, True] + [False] * 20


def test_readers_who_find_nothing_where_others_find_something_are_counted(raw, bring_in, capsys):
    """Image 5 has 'No finding' and a finding in its rows; of image 2, R2 alone finds nothing."""
    path = raw / "annotations" / "image_labels_train.csv"
    lines = path.read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(f"r{2:031x},R2,"))
    lines[at] = f"r{2:031x},R2" + ",0" * 27 + ",1"
    path.write_text("\n".join(lines) + "\n")
    table = read_label_table(bring_in("vindr", raw) / "labels_train.csv")
    text = capsys.readouterr().out
    assert "2 train rows say 'No finding' and name a finding or diagnosis too" in text, "R1 and R3 of image 5"
    assert "1 train images have 'No finding' by one reader and a finding or diagnosis by another" in text
    at = table.image_ids.index(f"r{2:031x}")
    assert table.target_NT[at, -1] == 1 and table.concept_NK[at].sum() == 1, "as the line says"
