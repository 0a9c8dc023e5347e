"""Importer of NIH ChestX-ray14 (nihcc.app.box.com/v/ChestXray-NIHCC).

    RAW/Data_Entry_2017_v2020.csv (or Data_Entry_2017.csv)    Image Index, Finding Labels (A|B), Patient ID
    RAW/train_val_list.txt  test_list.txt                     the official split, one image a line
    RAW/BBox_List_2017.csv                                    Image Index, Finding Label, Bbox [x,y,w,h]
    RAW/images_001/images/00000001_000.png .. images_012      or all of them in images/

All images are frontal. Boxes are x, y, width and height in pixels of the published images of 1024 x 1024, and
call Infiltration 'Infiltrate'. Targets are 'No Finding' and 'Pneumonia', the 13 others are concepts
(--concepts and --targets choose others).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from csr.data.importers.chest.label_choice import DISEASES, NOTHING, Choice, choose_labels, count_notices
from csr.data.importers.chest.nih_boxes import write_boxes
from csr.data.importers.image_rows import Handling, ImageRow, ImageTables, image_stem
from csr.data.importers.output import Output
from csr.data.importers.published_csv import published_rows
from csr.data.importers.raw import ImageFiles, Raw, open_raw
from csr.data.importers.summary import SPLITS, Imported
from csr.data.labels.names import show
from csr.runtime.errors import InputError

NAME, DATASET = "nih", "NIH ChestX-ray14"
HELP = "NIH ChestX-ray14: 14 findings, official split, patients, boxes"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
NUM_IMAGES, NUM_PATIENTS = 112_120, 30_805
ORIGIN = {
    "dataset": DATASET,
    "source": "https://nihcc.app.box.com/v/ChestXray-NIHCC",
    "citation": "Wang et al., ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks, CVPR 2017",
}
_IMAGE_FOLDER = re.compile(r"images(_\d+)?")


def run(
    folder: Path,
    output: Output,
    *,
    concepts: Sequence[str] | None,
    targets: Sequence[str] | None,
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
        omit, on_bad_image, workers: see `Handling`.
        links_into: see `ImageFiles`.

    Raises:
        InputError: a file is missing or not as published.
    """
    raw, imported = open_raw(folder, DATASET), Imported(dict(ORIGIN))
    names = (*FINDINGS, NOTHING)
    choice = choose_labels(
        DATASET,
        names,
        concepts=concepts,
        targets=targets,
        default_concepts=FINDINGS,
        default_targets=DISEASES,
    )
    imported.target_cols = choice.target_cols
    images = ImageFiles(folder, (".png", ".jpg", ".jpeg"), links_into=links_into)
    rows = _rows(raw, output, choice, _places(raw), imported)
    tables = ImageTables(output, imported, images, choice.labels, Handling(omit, on_bad_image, workers))
    for split in SPLITS:
        tables.write(split, rows[split])
    write_boxes(
        raw.file("BBox_List_2017.csv"), output, imported, names=tables.names, folder=folder, choice=choice
    )
    tables.finish()
    return imported


def _places(raw: Raw) -> dict[str, str]:
    """Return the place below RAW of each image by its name, both without suffix."""
    places: dict[str, str] = {}
    tops = [n for n in raw.entries() if _IMAGE_FOLDER.fullmatch(n) and (raw.folder / n).is_dir()]
    below = [
        place for top in tops for place in (f"{top}/images/", f"{top}/") if (raw.folder / place).is_dir()
    ]
    for place in ("", *below):
        for name in raw.entries(place):
            stem = image_stem(name)
            if stem == name:
                continue
            if stem in places:
                raise InputError(
                    f"{raw.folder}: image {show(name)} is in {places[stem]} and in {place}{stem}; "
                    "remove one of the two"
                )
            places[stem] = f"{place}{stem}"
    return places


def _rows(
    raw: Raw, output: Output, choice: Choice, places: dict[str, str], imported: Imported
) -> dict[str, list[ImageRow]]:
    """Return the rows of each split."""
    split_of = _split_of(raw)
    known = {*FINDINGS, NOTHING}
    rows: dict[str, list[ImageRow]] = {split: [] for split in SPLITS}
    patients: set[str] = set()
    counts: Counter[str] = Counter()
    columns = ("Image Index", "Finding Labels", "Patient ID")
    entries = raw.file(*ENTRIES)
    for location, row in published_rows(entries, columns=columns, scratch=output.scratch):
        counts["rows"] += 1
        patients.add(row["Patient ID"])
        image = image_stem(row["Image Index"])
        labels = row["Finding Labels"].split("|")
        unknown = [name for name in labels if name not in known]
        if unknown:
            raise InputError(f"{location}: {show(unknown[0])} is no label of {DATASET}; download it again")
        if image not in split_of:
            counts["in no list"] += 1
            continue
        cells = [str(int(name in labels)) for name in choice.labels]
        rows[split_of.pop(image)].append(
            ImageRow(location, places.get(image, image), image, row["Patient ID"], cells)
        )
    if split_of:
        name = next(iter(split_of))
        raise InputError(
            f"{entries}: {len(split_of):,} images of the lists have no row (the first: {show(name)}), or one "
            "has two; give the table and the lists as published"
        )
    count_notices(
        imported,
        {f"rows of {entries.name}": (counts["rows"], NUM_IMAGES), "patients": (len(patients), NUM_PATIENTS)},
    )
    if counts["in no list"]:
        imported.notices.append(
            f"{counts['in no list']:,} rows of {entries.name} are left out: their image is in neither list"
        )
    return rows


def _split_of(raw: Raw) -> dict[str, str]:
    """Return the split of each image of the official lists."""
    split_of: dict[str, str] = {}
    for split, name in LISTS.items():
        path = raw.file(name)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{path}: cannot be read as text; download it again") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            image = image_stem(line)
            if image in split_of:
                raise InputError(
                    f"{path} line {number}: {show(image)} is listed twice; download both lists again"
                )
            split_of[image] = split
    return split_of
