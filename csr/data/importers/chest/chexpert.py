"""Importer of CheXpert (stanfordmlgroup.github.io/competitions/chexpert), small or full size.

    RAW/train.csv  valid.csv     Path, Sex, Age, Frontal/Lateral, AP/PA, 14 observations: 1, 0, -1 or blank
    RAW/train/patient00001/study1/view1_frontal.jpg

RAW may also be the folder above CheXpert-v1.0-small or CheXpert-v1.0, or hold the four folders of the full
archive (batch 1 with the tables and valid/, batches 2 to 4 with the patients of train/). The 200 studies of
valid.csv, read by three radiologists, become the test set: the reports of train.csv are labeled by a program.
Targets are 'No Finding' and 'Pneumonia', the 12 others are concepts (--concepts and --targets choose others).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from csr.data.importers.chest.label_choice import (
    OBSERVATIONS,
    LabelPolicy,
    choose_observations,
    count_notices,
)
from csr.data.importers.chest.views import ViewFilter
from csr.data.importers.image_rows import Handling, ImageRow, ImageTables, image_stem
from csr.data.importers.output import Output
from csr.data.importers.published_csv import published_rows
from csr.data.importers.raw import ImageFiles, Raw, open_raw
from csr.data.importers.summary import SPLITS, Imported
from csr.data.labels.names import show
from csr.runtime.errors import InputError

NAME, DATASET = "chexpert", "CheXpert"
HELP = "CheXpert: 14 observations of a labeler, -1 and blanks by --uncertain and --blank"
TABLES = {"train": "train.csv", "test": "valid.csv"}
FOLDERS = {"train": "train", "test": "valid"}
ROWS = {"train": 223_414, "test": 234}
VIEW = "Frontal/Lateral"
ORIGIN = {
    "dataset": DATASET,
    "source": "https://stanfordmlgroup.github.io/competitions/chexpert/",
    "citation": "Irvin et al., CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert "
    "Comparison, AAAI 2019",
}
_PATH = re.compile(r"(?:[^/]+/)?(train|valid)/((patient\d+)/[^/]+/[^/]+)")


def run(
    folder: Path,
    output: Output,
    *,
    concepts: Sequence[str] | None,
    targets: Sequence[str] | None,
    uncertain: str,
    blank: str,
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
        uncertain, blank: see `LabelPolicy`.
        views: one of `csr.data.importers.chest.views.VIEWS`.
        omit, on_bad_image, workers: see `Handling`.
        links_into: see `ImageFiles`.

    Raises:
        InputError: a file is missing or not as published.
    """
    raw, imported = open_raw(folder, DATASET), Imported(dict(ORIGIN))
    choice = choose_observations(DATASET, concepts, targets)
    imported.target_cols = choice.target_cols
    imported.reader_merge = "soft" if uncertain == "soft" else None
    policy = LabelPolicy(uncertain, blank)
    view_filter = ViewFilter(views, frontal=("Frontal",), lateral=("Lateral",))
    root, patients = _patients(raw)
    handling = Handling(omit, on_bad_image, workers)
    files = ImageFiles(root, (".jpg", ".jpeg", ".png"), links_into=links_into)
    tables = ImageTables(output, imported, files, choice.labels, handling)
    counts = {}
    for split in SPLITS:
        path, rows, number = _table(raw, TABLES[split]), [], 0
        columns = ("Path", VIEW, *OBSERVATIONS)
        for location, row in published_rows(path, columns=columns, scratch=output.scratch):
            number += 1
            if view_filter.keeps(row[VIEW]):
                image, patient = _image(row["Path"], split, patients, location)
                cells = policy.cells(row, choice.labels, location=location)
                rows.append(ImageRow(location, image, image_stem(row["Path"]), patient, cells))
        counts[f"rows of {TABLES[split]}"] = (number, ROWS[split])
        tables.write(split, rows)
    count_notices(imported, counts)
    view_filter.add_notice(imported)
    imported.notices += policy.notices()
    tables.finish()
    return imported


def _bases(raw: Raw) -> list[str]:
    """Return RAW and the folders in it that are named like the archives, relative to RAW."""
    inside = [n for n in raw.entries() if n.startswith("CheXpert") and (raw.folder / n).is_dir()]
    return ["", *(f"{name}/" for name in inside)]


def _table(raw: Raw, name: str) -> Path:
    return raw.file(*(f"{base}{name}" for base in _bases(raw)))


def _patients(raw: Raw) -> tuple[Path, dict[tuple[str, str], str]]:
    """Return the image folder, and below it the folder of each patient by part (train, valid) and name."""
    parts = tuple(FOLDERS.values())
    bases = [
        base
        for base in _bases(raw)
        if _is_batch(base) or any((raw.folder / base / part).is_dir() for part in parts)
    ]
    top = bases.pop() if len(bases) == 1 and not _is_batch(bases[0]) else ""
    patients: dict[tuple[str, str], str] = {}
    for base in bases or [""]:
        places = {f"{base}{part}/": part for part in parts}
        if _is_batch(base):  # batches 2 to 4 hold the patients themselves
            places[base] = "train"
        for place, part in places.items():
            if (raw.folder / top / place).is_dir():
                names = [name for name in raw.entries(f"{top}{place}") if name.startswith("patient")]
                patients |= {(part, name): f"{place}{name}" for name in names}
    return raw.folder / top, patients


def _is_batch(base: str) -> bool:
    return " batch " in base


def _image(path: str, split: str, patients: dict[tuple[str, str], str], location: str) -> tuple[str, str]:
    """Return image and patient of a path with or without the name of the archive in front."""
    match = _PATH.fullmatch(path)
    if match is None or match[1] != FOLDERS[split]:
        raise InputError(
            f"{location}: Path {show(path)} is not CheXpert-v1.0/{FOLDERS[split]}/patient00001/study1/x.jpg; "
            "give the published file"
        )
    part, below, patient = match.groups()
    place = patients.get((part, patient), f"{part}/{patient}")
    return image_stem(place + below[len(patient) :]), patient
