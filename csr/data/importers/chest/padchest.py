"""Importer of PadChest (bimcv.cipf.es/bimcv-projects/padchest).

    RAW/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv (or .csv.gz)    ImageID, ImageDir, PatientID,
                       Projection, MethodLabel (Physician or RNN_model), Labels (['label', ..]), ..
    RAW/0/2053..k6ga29.png .. RAW/54    a folder for each archive, named by ImageDir; or all images in RAW

No split is published: of each patient a hash decides whether the images are for training or for the test, the
same on every machine. The test set has images that physicians labeled; the others were labeled by a network.
Targets are 'normal' and the differential diagnoses (pneumonia, tuberculosis, ..), concepts are the other
labels with enough training images (--concepts and --targets choose others). Images whose label is 'exclude'
or 'unchanged', or which have none, are left out: their findings are not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from csr.data.importers.chest.label_choice import Choice, choose_labels, count_notices
from csr.data.importers.chest.padchest_labels import (
    DIAGNOSES,
    NORMAL,
    NOT_LABELED,
    QUALITY,
    file_problem,
    is_test_patient,
    label_list,
)
from csr.data.importers.chest.views import ViewFilter
from csr.data.importers.image_rows import Handling, ImageRow, ImageTables, image_stem
from csr.data.importers.output import Output
from csr.data.importers.published_csv import published_rows
from csr.data.importers.raw import ImageFiles, Raw, open_raw
from csr.data.importers.summary import SPLITS, Imported
from csr.data.labels.names import name_key, show
from csr.runtime.errors import InputError

NAME, DATASET = "padchest", "PadChest"
HELP = "PadChest: labels in one cell, physicians' or a network's, split by patient"
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = ("ImageID", "ImageDir", "PatientID", "Projection", "MethodLabel", "Labels")
NUM_IMAGES = 160_861
FRONTAL, LATERAL = ("PA", "AP", "AP_horizontal"), ("L",)
METHODS = ("Physician", "RNN_model")
LABELED_BY = ("all", "physician")
ORIGIN = {
    "dataset": DATASET,
    "source": "https://bimcv.cipf.es/bimcv-projects/padchest/",
    "citation": "Bustos et al., PadChest: A large chest x-ray image dataset with multi-label annotated "
    "reports, Medical Image Analysis 2020",
}


def run(
    folder: Path,
    output: Output,
    *,
    concepts: Sequence[str] | None,
    targets: Sequence[str] | None,
    labeled_by: str,
    min_images: int,
    test_fraction: float,
    views: str,
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
        labeled_by: `physician` or `all`, of the training images.
        min_images: training images that a label needs to become a column unasked.
        test_fraction: share of patients whose images are for the test.
        views: one of `csr.data.importers.chest.views.VIEWS`.
        omit, on_bad_image, workers: see `Handling`.
        links_into: see `ImageFiles`.

    Raises:
        InputError: a file is missing or not as published.
    """
    raw, imported = open_raw(folder, DATASET), Imported(dict(ORIGIN))
    view_filter = ViewFilter(views, FRONTAL, LATERAL)
    spelling: dict[str, str] = {}
    read = _read(
        raw, output, view_filter, imported, spelling, labeled_by=labeled_by, test_fraction=test_fraction
    )
    choice = _choose(read["train"], spelling, concepts, targets, min_images=min_images)
    imported.target_cols = choice.target_cols
    keys = [name_key(name) for name in choice.labels]
    files = ImageFiles(folder, (".png", ".jpg", ".jpeg"), links_into=links_into)
    handling = Handling(omit, on_bad_image, workers)
    tables = ImageTables(output, imported, files, choice.labels, handling, check=file_problem)
    for split in SPLITS:
        rows = (
            ImageRow(
                location, image, image.rpartition("/")[2], patient, [str(int(key in labels)) for key in keys]
            )
            for location, image, patient, labels in read[split]
        )
        tables.write(split, list(rows))
    view_filter.add_notice(imported)
    tables.finish()
    return imported


_Read = tuple[str, str, str, frozenset[str]]  # location, image, patient, keys of labels


def _read(
    raw: Raw,
    output: Output,
    view_filter: ViewFilter,
    imported: Imported,
    spelling: dict[str, str],
    *,
    labeled_by: str,
    test_fraction: float,
) -> dict[str, list[_Read]]:
    """Return the rows of each split; `spelling` gets the first spelling of each label by its key."""
    rows: dict[str, list[_Read]] = {split: [] for split in SPLITS}
    counts: Counter[str] = Counter()
    path = raw.file(TABLE, f"{TABLE}.gz")
    for location, row in published_rows(path, columns=COLUMNS, scratch=output.scratch):
        counts["rows"] += 1
        if row["MethodLabel"] not in METHODS:
            raise InputError(
                f"{location}: MethodLabel {show(row['MethodLabel'])} is none of {', '.join(METHODS)}"
            )
        if not row["PatientID"]:
            raise InputError(f"{location}: PatientID is empty; without it the split is not by patient")
        if not view_filter.keeps(row["Projection"]):
            continue
        labels = label_list(row["Labels"], location=location)
        keys = frozenset(map(name_key, labels))
        if not keys or keys & NOT_LABELED:
            counts["not labeled"] += 1
            continue
        split = "test" if is_test_patient(row["PatientID"], test_fraction) else "train"
        if row["MethodLabel"] != "Physician" and (split == "test" or labeled_by == "physician"):
            counts[f"network {split}"] += 1
            continue
        for label in labels:
            spelling.setdefault(name_key(label), label)
        rows[split].append((location, _place(raw, row), row["PatientID"], keys))
    count_notices(imported, {f"rows of {path.name}": (counts["rows"], NUM_IMAGES)})
    reasons = {
        "not labeled": f"without labels, or labeled {' or '.join(sorted(NOT_LABELED))}",
        "network test": "of test patients, not labeled by a physician",
        "network train": "not labeled by a physician (--labeled_by physician)",
    }
    imported.notices += [
        f"{counts[k]:,} images are left out: {text}" for k, text in reasons.items() if counts[k]
    ]
    return rows


def _place(raw: Raw, row: dict[str, str]) -> str:
    """Return the image below RAW without its suffix: in the folder of its archive, or in RAW itself."""
    name = row["ImageID"]
    archive = row["ImageDir"].removesuffix(".0")
    return image_stem(f"{archive}/{name}" if (raw.folder / archive).is_dir() and archive else name)


def _choose(
    rows: list[_Read],
    spelling: dict[str, str],
    concepts: Sequence[str] | None,
    targets: Sequence[str] | None,
    *,
    min_images: int,
) -> Choice:
    images = Counter(key for *_, keys in rows for key in keys)
    common = [key for key, count in images.most_common() if count >= min_images]
    diagnoses = {NORMAL, *DIAGNOSES}
    return choose_labels(
        DATASET,
        [spelling[key] for key in sorted(spelling, key=lambda key: (-images[key], key))],
        concepts=concepts,
        targets=targets,
        default_concepts={spelling[key] for key in common if key not in diagnoses | QUALITY},
        default_targets={spelling[key] for key in common if key in diagnoses},
    )
