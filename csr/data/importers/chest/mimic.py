"""Importer of MIMIC-CXR-JPG 2 (physionet.org/content/mimic-cxr-jpg).

    RAW/mimic-cxr-2.0.0-chexpert.csv     subject_id, study_id, 14 observations: 1, 0, -1 or blank
    RAW/mimic-cxr-2.0.0-split.csv        dicom_id, study_id, subject_id, split: train, validate or test
    RAW/mimic-cxr-2.0.0-metadata.csv     dicom_id, subject_id, study_id, ViewPosition, ..
    RAW/files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg

The tables may be packed as published (.csv.gz). The labels of a study hold for each of its images. Targets
are 'No Finding' and 'Pneumonia', the 12 others are concepts (--concepts and --targets choose others).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from csr.data.importers.chest.label_choice import (
    OBSERVATIONS,
    Choice,
    LabelPolicy,
    choose_observations,
    count_notices,
)
from csr.data.importers.chest.views import ViewFilter
from csr.data.importers.image_rows import Handling, ImageRow, ImageTables
from csr.data.importers.output import Output
from csr.data.importers.published_csv import published_rows
from csr.data.importers.raw import ImageFiles, Raw, open_raw
from csr.data.importers.summary import SPLITS, Imported
from csr.data.labels.names import show
from csr.runtime.errors import InputError

NAME, DATASET = "mimic", "MIMIC-CXR-JPG"
HELP = "MIMIC-CXR-JPG: 14 observations of the CheXpert labeler, official split, patients, views"
TABLES = "mimic-cxr-2.0.0-{}.csv"
NUM_IMAGES = 377_110
PARTS = ("train", "validate", "test")
FRONTAL, LATERAL = ("AP", "PA"), ("LATERAL", "LL")
ORIGIN = {
    "dataset": DATASET,
    "source": "https://physionet.org/content/mimic-cxr-jpg/",
    "citation": "Johnson et al., MIMIC-CXR-JPG, a large publicly available database of labeled chest "
    "radiographs, arXiv:1901.07042",
}


def run(
    folder: Path,
    output: Output,
    *,
    concepts: Sequence[str] | None,
    targets: Sequence[str] | None,
    uncertain: str,
    blank: str,
    views: str,
    with_validation: bool,
    omit: Path | None,
    on_bad_image: str,
    workers: int,
    links_into: Sequence[str],
) -> Imported:
    """Read RAW, write the tables and place the images.

    Args:
        folder: RAW.
        output: OUT, open.
        concepts, targets: labels by name; None: the defaults.
        uncertain, blank: see `LabelPolicy`.
        views: one of `csr.data.importers.chest.views.VIEWS`.
        with_validation: whether the images of `validate` join the training images.
        omit, on_bad_image, workers: see `Handling`.
        links_into: see `ImageFiles`.

    Raises:
        InputError: a file is missing or not as published.
    """
    raw, imported = open_raw(folder, DATASET), Imported(dict(ORIGIN))
    choice = choose_observations(DATASET, concepts, targets)
    imported.target_cols = choice.target_cols
    imported.reader_merge = "soft" if uncertain == "soft" else None
    policy, view_filter = LabelPolicy(uncertain, blank), ViewFilter(views, FRONTAL, LATERAL)
    rows = _rows(raw, output, choice, policy, view_filter, imported)
    if with_validation:
        rows["train"] += rows["validate"]
    elif rows["validate"]:
        imported.notices.append(
            f"{len(rows['validate']):,} images of the validation split are left out; --with_validation adds "
            "them to the training images"
        )
    raw.subfolder("files")
    images = ImageFiles(folder, (".jpg", ".jpeg", ".png", ".dcm"), links_into=links_into)
    tables = ImageTables(output, imported, images, choice.labels, Handling(omit, on_bad_image, workers))
    for split in SPLITS:
        tables.write(split, rows[split])
    view_filter.add_notice(imported)
    imported.notices += policy.notices()
    tables.finish()
    return imported


def _rows(
    raw: Raw,
    output: Output,
    choice: Choice,
    policy: LabelPolicy,
    view_filter: ViewFilter,
    imported: Imported,
) -> dict[str, list[ImageRow]]:
    """Return the three tables joined: rows of images with labels, by part."""
    part_of = _parts(raw, output)
    cells_of = _cells(raw, output, choice, policy)
    rows: dict[str, list[ImageRow]] = {part: [] for part in PARTS}
    number, unlabeled = 0, 0
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    for location, row in published_rows(_table(raw, "metadata"), columns=columns, scratch=output.scratch):
        number += 1
        image, patient, study = (_checked(row, name, location) for name in columns[:3])
        if image not in part_of:
            raise InputError(
                f"{location}: image {show(image)} is not in {_table(raw, 'split')}; give both as published"
            )
        if not view_filter.keeps(row["ViewPosition"]):
            continue
        if (patient, study) not in cells_of:
            unlabeled += 1
            continue
        place = f"files/p{patient[:2]}/p{patient}/s{study}/{image}"
        rows[part_of[image]].append(ImageRow(location, place, image, patient, cells_of[patient, study]))
    count_notices(imported, {"rows of the metadata": (number, NUM_IMAGES)})
    if unlabeled:
        imported.notices.append(f"{unlabeled:,} images are left out: their study has no row of labels")
    return rows


def _table(raw: Raw, name: str) -> Path:
    plain = TABLES.format(name)
    return raw.file(plain, f"{plain}.gz")


def _parts(raw: Raw, output: Output) -> dict[str, str]:
    """Return the part (train, validate, test) of each image."""
    part_of: dict[str, str] = {}
    for location, row in published_rows(
        _table(raw, "split"), columns=("dicom_id", "split"), scratch=output.scratch
    ):
        if row["split"] not in PARTS:
            raise InputError(f"{location}: split {show(row['split'])} is none of {', '.join(PARTS)}")
        if part_of.setdefault(row["dicom_id"], row["split"]) != row["split"]:
            raise InputError(f"{location}: image {show(row['dicom_id'])} is in two parts; download it again")
    return part_of


def _cells(raw: Raw, output: Output, choice: Choice, policy: LabelPolicy) -> dict[tuple[str, str], list[str]]:
    """Return the labels of each patient and study."""
    keys = ("subject_id", "study_id")
    cells_of: dict[tuple[str, str], list[str]] = {}
    for location, row in published_rows(
        _table(raw, "chexpert"), columns=(*keys, *OBSERVATIONS), scratch=output.scratch
    ):
        patient, study = (_checked(row, name, location) for name in keys)
        if (patient, study) in cells_of:
            raise InputError(f"{location}: study {show(study)} has two rows; download it again")
        cells_of[patient, study] = policy.cells(row, choice.labels, location=location)
    return cells_of


def _checked(row: dict[str, str], name: str, location: str) -> str:
    """Return an id that becomes part of a path."""
    text = row[name]
    if not text or not text.isascii() or not text.replace("-", "").isalnum():
        raise InputError(f"{location}, column {name}: {show(text)} is no id; give the published file")
    return text
