"""Importer of the ISIC 2017 challenge, parts 2 and 3 (challenge.isic-archive.com/landing/2017).

    RAW/ISIC-2017_Training_Data/ISIC_0000000.jpg  ISIC_0000000_superpixels.png
    RAW/ISIC-2017_Training_Part2_GroundTruth/ISIC_0000000_features.json
    RAW/ISIC-2017_Training_Part3_GroundTruth.csv        image_id, melanoma, seborrheic_keratosis

and the same with Validation and Test_v2; archives that were unpacked into folders of their own names are
found too. The four dermoscopic features are concepts: an image has one if any of its superpixels has it, and
touching superpixels with the feature make one box. Diagnoses are targets; a lesion that is neither is a
nevus.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from csr.data.importers.isic2017_features import FEATURES, Lesion, read_lesion
from csr.data.importers.output import BOX_COLUMNS, Output
from csr.data.importers.raw import ImageFiles, Raw, open_raw, read_table
from csr.data.importers.summary import SPLITS, Imported
from csr.data.labels.label_cells import NO, YES, label_code
from csr.data.labels.names import show
from csr.runtime.errors import InputError
from csr.runtime.thread_map import mapped

NAME, DATASET = "isic2017", "ISIC 2017"
HELP = "ISIC 2017, parts 2 and 3: dermoscopic features of superpixels, melanoma, keratosis, nevus"
DIAGNOSES = ("melanoma", "seborrheic_keratosis")
NEVUS = "nevus"
ORIGIN = {
    "dataset": DATASET,
    "source": "https://challenge.isic-archive.com/landing/2017",
    "citation": "Codella et al., Skin Lesion Analysis Toward Melanoma Detection (ISBI 2017), ISBI 2018",
}


def run(
    folder: Path, output: Output, *, with_validation: bool, workers: int, links_into: Sequence[str]
) -> Imported:
    """Read RAW, write the four tables and place the images.

    Args:
        folder: RAW.
        output: OUT, open; it must copy images where `with_validation` joins two folders.
        with_validation: whether the validation images join the training images.
        workers: threads that decode superpixels.
        links_into: see `ImageFiles`.

    Raises:
        InputError: a file is missing or not as published.
    """
    raw, imported = open_raw(folder, DATASET), Imported(dict(ORIGIN), target_cols=(*DIAGNOSES, NEVUS))
    if with_validation and output.images != "copy":
        raise InputError("--with_validation joins two image folders: give --images copy with it")
    parts = {"train": ["Training", *(["Validation"] if with_validation else [])], "test": ["Test_v2"]}
    seen: dict[str, str] = {}
    for split in SPLITS:
        _import_split(
            raw, split, parts[split], output, imported, seen, workers=workers, links_into=links_into
        )
    return imported


def _import_split(
    raw: Raw,
    split: str,
    parts: list[str],
    output: Output,
    imported: Imported,
    seen: dict[str, str],
    *,
    workers: int,
    links_into: Sequence[str],
) -> None:
    columns = ("image_id", *FEATURES, *DIAGNOSES, NEVUS)
    with (
        output.table(f"labels_{split}.csv", columns) as labels,
        output.table(f"boxes_{split}.csv", ("image_id", *BOX_COLUMNS)) as boxes,
    ):
        for part in parts:
            diagnoses = _diagnoses(raw, part, seen)
            images, features = _folders(raw, part)
            files, pixels, lists = (
                ImageFiles(place, (suffix,), links_into=links_into)
                for place, suffix in ((images, ".jpg"), (images, ".png"), (features, ".json"))
            )
            read = partial(_lesion, files=files, pixels=pixels, features=lists)
            lesions = mapped(
                read, diagnoses.items(), workers=workers, total=len(diagnoses), title=f"{DATASET}, {part}"
            )
            for (image, (_, cells)), lesion in zip(diagnoses.items(), lesions, strict=True):
                labels.writerow([image, *(int(name in lesion.present) for name in FEATURES), *cells])
                boxes.writerows([image, name, *box] for name, box in lesion.boxes)
            names = [f"{image}.jpg" for image in diagnoses]
            imported.folders[split] = output.place_images(split, images, names)


def _diagnoses(raw: Raw, part: str, seen: dict[str, str]) -> dict[str, tuple[str, list[str]]]:
    """Return location and targets by image of a part.

    Args:
        raw: RAW.
        part: Training, Validation or Test_v2.
        seen: locations by image of all parts so far; those of this part are added.
    """
    path = raw.file(*_places(f"ISIC-2017_{part}_Part3_GroundTruth.csv"))
    diagnoses: dict[str, tuple[str, list[str]]] = {}
    for location, row in read_table(path, columns=("image_id", *DIAGNOSES)):
        values = []
        for name in DIAGNOSES:
            code = label_code(row[name])
            if code not in (NO, YES):
                raise InputError(
                    f"{location}, column {name}: {show(row[name])} is not 0.0 or 1.0; download the file again"
                )
            values.append(int(code == YES))
        if sum(values) > 1:
            raise InputError(f"{location}: is both {' and '.join(DIAGNOSES)}; download the file again")
        image = row["image_id"]
        if image in seen:
            raise InputError(
                f"{location}: image {show(image)} is already in {seen[image]}; download both again"
            )
        seen[image] = location
        diagnoses[image] = (location, [str(v) for v in (*values, int(not any(values)))])
    if not diagnoses:
        raise InputError(f"{path}: no rows below the header; download it again")
    return diagnoses


def _folders(raw: Raw, part: str) -> tuple[Path, Path]:
    """Return image folder and feature folder of a part, also if it was unpacked into a folder of its name."""
    data, features = f"ISIC-2017_{part}_Data", f"ISIC-2017_{part}_Part2_GroundTruth"
    return raw.subfolder(f"{data}/{data}", data), raw.subfolder(f"{features}/{features}", features)


def _places(name: str) -> tuple[str, str]:
    return name, f"{name}/{name}"


def _lesion(
    row: tuple[str, tuple[str, list[str]]], *, files: ImageFiles, pixels: ImageFiles, features: ImageFiles
) -> Lesion:
    image, (location, _) = row
    return read_lesion(
        files.folder / files.find(image, location=location),
        superpixels=pixels.folder / pixels.find(f"{image}_superpixels", location=location),
        features=features.folder / features.find(f"{image}_features", location=location),
    )
