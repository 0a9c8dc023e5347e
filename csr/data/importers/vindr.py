"""Importer of VinDr-CXR 1.0.0 as PhysioNet publishes it (doi 10.13026/3akn-b287).

    RAW/annotations/image_labels_train.csv   image_id, rad_id, 22 findings, 6 diagnoses: three readers
    RAW/annotations/image_labels_test.csv    the same without rad_id: the consensus of five
    RAW/annotations/annotations_train.csv    image_id, rad_id, class_name, x_min, y_min, x_max, y_max
    RAW/annotations/annotations_test.csv     the same without rad_id
    RAW/train/*.dicom  RAW/test/*.dicom

Findings (local labels) are concepts, diagnoses (global labels) are targets. The column 'Other diseases' of
the training file is 'Other disease' in the test file: both are written as 'Other disease'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from csr.data.importers.boxes import checked_box
from csr.data.importers.output import BOX_COLUMNS, Output
from csr.data.importers.raw import ImageFiles, Raw, open_raw, read_labels, read_table
from csr.data.importers.summary import SPLITS, Imported
from csr.data.labels.names import name_key, show
from csr.runtime.errors import InputError

NAME, DATASET = "vindr", "VinDr-CXR 1.0.0"
HELP = "VinDr-CXR (PhysioNet): DICOM, three readers, 22 findings and 6 diagnoses, boxes"
FINDINGS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
)
NOTHING = "No finding"
DIAGNOSES = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", NOTHING)
READERS = {"train": 3, "test": 1}
ORIGIN = {
    "dataset": DATASET,
    "source": "https://doi.org/10.13026/3akn-b287",
    "citation": "Nguyen et al., VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations, "
    "Scientific Data 2022",
}
Reading = tuple[str, str]  # image and reader


def run(folder: Path, output: Output, *, links_into: Sequence[str]) -> Imported:
    """Read RAW, write the four tables and place the images.

    Args:
        folder: RAW.
        output: OUT, open.
        links_into: see `ImageFiles`.

    Raises:
        InputError: a file is missing or not as published.
    """
    raw, imported = open_raw(folder, DATASET), Imported(dict(ORIGIN))
    sources = {split: raw.subfolder(split) for split in SPLITS}
    files: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        images = ImageFiles(sources[split], (".dicom", ".dcm"), links_into=links_into)
        files[split], findings = _labels(raw, split, images, output, imported)
        both = files["train"].keys() & files["test"].keys() if split == "test" else set()
        if both:
            raise InputError(f"{folder}: image {show(min(both))} is in the training and in the test labels")
        _boxes(raw, split, findings, output, imported)
    for split in SPLITS:
        imported.folders[split] = output.place_images(split, sources[split], files[split].values())
    return imported


def _labels(
    raw: Raw, split: str, images: ImageFiles, output: Output, imported: Imported
) -> tuple[dict[str, str], dict[Reading, frozenset[str]]]:
    """Write the labels of a split; return image files by id, and the findings of each reader and image."""
    path = raw.file(f"annotations/image_labels_{split}.csv")
    keys = ("image_id", "rad_id") if split == "train" else ("image_id",)
    files: dict[str, str] = {}
    findings: dict[Reading, frozenset[str]] = {}
    readers: Counter[str] = Counter()
    said = _Nothing()
    with output.table(f"labels_{split}.csv", (*keys, *FINDINGS, *DIAGNOSES)) as table:
        for location, row, cells in read_labels(
            path, keys=keys, labels=(*FINDINGS, *DIAGNOSES), optional=("rad_id",)
        ):
            image = row["image_id"]
            reading = (image, row["rad_id"] if "rad_id" in keys else "")
            if reading in findings:
                raise InputError(
                    f"{location}: image {show(image)} and reader {show(reading[1])} have two rows"
                )
            if image not in files:
                files[image] = images.find(image, location=location)
            findings[reading] = frozenset(name for name, cell in zip(FINDINGS, cells) if cell == "1")
            readers[image] += 1
            said.add(image, cells)
            table.writerow([*(row[key] for key in keys), *cells])
    if not files:
        raise InputError(f"{path}: no rows below the header; download it again")
    odd = sum(count != READERS[split] for count in readers.values())
    if odd:
        imported.notices.append(f"{odd} {split} images do not have {READERS[split]} reader(s)")
    imported.notices += said.notices(split)
    return files, findings


class _Nothing:
    """Who says that there is nothing to find, beside those who find something."""

    def __init__(self) -> None:
        self._nothing: set[str] = set()  # images with a row that names nothing else
        self._something: set[str] = set()
        self._rows = 0

    def add(self, image: str, cells: list[str]) -> None:
        """Take the labels of a row, findings and diagnoses in their order."""
        labels = [name for name, cell in zip((*FINDINGS, *DIAGNOSES), cells, strict=True) if cell == "1"]
        if labels == [NOTHING]:
            self._nothing.add(image)
        elif labels:
            self._something.add(image)
            self._rows += NOTHING in labels

    def notices(self, split: str) -> list[str]:
        """Return lines on contradictions, within a row and between the readers of an image."""
        lines = []
        if self._rows:
            lines.append(f"{self._rows} {split} rows say {NOTHING!r} and name a finding or diagnosis too")
        if images := len(self._nothing & self._something):
            lines.append(
                f"{images} {split} images have {NOTHING!r} by one reader and a finding or diagnosis by "
                "another: --reader_merge any, the default, makes both 1; majority is what two of three say"
            )
        return lines


def _boxes(
    raw: Raw, split: str, findings: dict[Reading, frozenset[str]], output: Output, imported: Imported
) -> None:
    """Write the boxes of a split; rows of 'No finding' have none."""
    path = raw.file(f"annotations/annotations_{split}.csv")
    keys = ("image_id", "rad_id") if split == "train" else ("image_id",)
    name_of = {name_key(name): name for name in (*FINDINGS, NOTHING)}
    denied = 0
    with output.table(f"boxes_{split}.csv", (*keys, *BOX_COLUMNS)) as table:
        for location, row in read_table(path, columns=(*keys, *BOX_COLUMNS), more=True):
            reading = (row["image_id"], row["rad_id"] if "rad_id" in keys else "")
            if reading not in findings:
                who = f"image {show(reading[0])}" + (f" and reader {show(reading[1])}" if reading[1] else "")
                raise InputError(
                    f"{location}: {who} has no row in image_labels_{split}.csv; download both again"
                )
            name = name_of.get(name_key(row["class_name"]))
            if name is None:
                raise InputError(
                    f"{location}: class_name {show(row['class_name'])} is no finding of {DATASET}"
                )
            edges = (row["x_min"], row["y_min"], row["x_max"], row["y_max"])
            if name == NOTHING:
                if any(edges):
                    raise InputError(f"{location}: a box of {NOTHING!r}; remove its coordinates")
                continue
            denied += name not in findings[reading]
            table.writerow([*(row[key] for key in keys), name, *checked_box(edges, location=location)])
    if denied:
        imported.notices.append(f"{denied} {split} boxes show a finding that the same reader's label denies")
