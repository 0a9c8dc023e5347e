"""Small data sets in the published formats, with real DICOM, PNG and JPEG files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from csr.data.importers.vindr import DIAGNOSES, FINDINGS

VINDR_LABELS = {
    "train": (*FINDINGS, *(name.replace("Other disease", "Other diseases") for name in DIAGNOSES)),
    "test": (*FINDINGS, *DIAGNOSES),
}
VINDR_SIZE = (48, 40)  # height, width


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def noise(seed: int, *shape: int) -> np.ndarray:
    """Return a smooth uint8 pattern that no other seed has."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, *shape[2:]), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def write_dicom(path: Path, pixels_HW: np.ndarray) -> None:
    """Write 12-bit grey as VinDr-CXR's scanners write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.1.1",
        generate_uid(),
    )
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels_HW.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = (pixels_HW.astype(np.uint16) * 16).tobytes()
    dataset.save_as(path, enforce_file_format=False)


def vindr(folder: Path, *, num_train: int = 12, num_test: int = 6) -> Path:
    """Write VinDr-CXR: image i has finding i mod 22, diagnosis i mod 6; reader R2 misses both in odd i."""
    for split, count in (("train", num_train), ("test", num_test)):
        columns, rows, boxes = VINDR_LABELS[split], [], []
        for i in range(count):
            image = f"{split[1]}{i:031x}"
            write_dicom(folder / split / f"{image}.dicom", noise(i + 1000 * (split == "test"), *VINDR_SIZE))
            for reader in ("R1", "R2", "R3") if split == "train" else ("",):
                key = (image, reader) if reader else (image,)
                has = set() if reader == "R2" and i % 2 else {columns[i % 22], columns[22 + i % 6]}
                rows.append([*key, *(int(name in has) for name in columns)])
                if columns[i % 22] in has:
                    boxes.append([*key, columns[i % 22], 3.25, 4, 20.5 + i % 5, 30])
                else:
                    boxes.append([*key, "No finding", "", "", "", ""])
        key = ("image_id", "rad_id") if split == "train" else ("image_id",)
        write_csv(folder / "annotations" / f"image_labels_{split}.csv", (*key, *columns), rows)
        sides = ("class_name", "x_min", "y_min", "x_max", "y_max")
        write_csv(folder / "annotations" / f"annotations_{split}.csv", (*key, *sides), boxes)
    return folder


TBX_BOXES = {
    # original radiograph 1024 x 2048, published image 512 x 512; VOC pixels of the former, counted from 1
    "tb/tb0001": [("ActiveTuberculosis", (101, 201, 300, 800))],
    "tb/tb0002": [
        ("ObsoletePulmonaryTuberculosis", (11, 21, 110, 220)),
        ("ActiveTuberculosis", (1, 1, 1024, 2048)),
    ],
    "tb/tb0003": [],
    "tb/tb0004": [("ObsoletePulmonaryTuberculosis", (501, 1001, 1000, 2000))],
    "tb/tb0005": [("ActiveTuberculosis", (101, 201, 300, 800))],
    "tb/tb0006": [("ObsoletePulmonaryTuberculosis", (11, 21, 110, 220))],
}
TBX_CATEGORIES = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")


def tbx_lists() -> dict[str, list[str]]:
    train = [f"health/h{i:04}" for i in range(1, 5)] + [f"sick/s{i:04}" for i in range(1, 5)]
    test = [f"health/h{i:04}" for i in range(5, 7)] + [f"sick/s{i:04}" for i in range(5, 7)]
    return {"train": train + [*TBX_BOXES][:4], "val": test + [*TBX_BOXES][4:]}


def halved(box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Return a VOC box of a 1024 x 2048 radiograph in pixels of the 512 x 512 image, edges counted from 0."""
    x_min, y_min, x_max, y_max = box
    return (x_min - 1) / 2, (y_min - 1) / 4, x_max / 2, y_max / 4


def tbx11k(folder: Path) -> Path:
    """Write twelve training images and six validation images."""
    for split, stems in tbx_lists().items():
        coco: dict[str, list] = {"images": [], "annotations": [], "categories": []}
        coco["categories"] = [
            {"id": i, "name": name, "supercategory": "Tuberculosis"}
            for i, name in enumerate(TBX_CATEGORIES, 1)
        ]
        for number, stem in enumerate(stems, 1):
            path = folder / "imgs" / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(sum(stem.encode()) * 31 + number, 512, 512)).save(path)
            coco["images"].append({"id": number, "file_name": f"{stem}.png", "width": 512, "height": 512})
            for name, box in TBX_BOXES.get(stem, []):
                x_min, y_min, x_max, y_max = halved(box)
                sides = [x_min, y_min, x_max - x_min, y_max - y_min]
                category = TBX_CATEGORIES.index(name) + 1
                entry = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": category}
                coco["annotations"].append(
                    {**entry, "bbox": sides, "iscrowd": 0, "area": sides[2] * sides[3]}
                )
            if TBX_BOXES.get(stem):
                write_voc(folder / "annotations" / "xml" / f"{stem[3:]}.xml", TBX_BOXES[stem])
        write_text(folder / "lists" / f"TBX11K_{split}.txt", "".join(f"{stem}.png\n" for stem in stems))
        write_text(folder / "annotations" / "json" / f"TBX11K_{split}.json", json.dumps(coco))
    return folder


def write_voc(path: Path, boxes: list[tuple[str, tuple[int, int, int, int]]], *, difficult: int = 0) -> None:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, b in boxes
    )
    size = "<size><width>1024</width><height>2048</height><depth>1</depth></size>"
    write_text(path, f"<annotation><filename>{path.stem}.png</filename>{size}{objects}</annotation>")


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


ISIC_FEATURES = ("pigment_network", "negative_network", "milia_like_cyst", "streaks")
ISIC_SIZE = (60, 80)  # height, width; 6 x 8 superpixels of 10 pixels


def isic2017(folder: Path, *, counts: tuple[int, int, int] = (8, 2, 4)) -> Path:
    """Write ISIC-2017: melanoma, keratosis, nevus by i mod 3; feature i mod 4 in superpixels 0, 1, 47."""
    index_HW = np.add.outer(8 * (np.arange(60) // 10), np.arange(80) // 10)
    number = 0
    for part, count in zip(("Training", "Validation", "Test_v2"), counts, strict=True):
        data, features = folder / f"ISIC-2017_{part}_Data", folder / f"ISIC-2017_{part}_Part2_GroundTruth"
        for place in (data, features):
            place.mkdir(parents=True)
        rows = []
        for _ in range(count):
            image = f"ISIC_{number:07}"
            Image.fromarray(noise(number, *ISIC_SIZE, 3)).save(data / f"{image}.jpg")
            rgb = np.stack([index_HW % 256, index_HW // 256, np.zeros_like(index_HW)], axis=-1).astype(
                np.uint8
            )
            Image.fromarray(rgb).save(data / f"{image}_superpixels.png")
            superpixels_of = {name: [0] * 48 for name in ISIC_FEATURES}
            for place_of_feature in (0, 1, 47) if number else ():
                superpixels_of[ISIC_FEATURES[number % 4]][place_of_feature] = 1
            (features / f"{image}_features.json").write_text(json.dumps(superpixels_of))
            rows.append([image, f"{float(number % 3 == 0)}", f"{float(number % 3 == 1)}"])
            number += 1
        write_csv(
            folder / f"ISIC-2017_{part}_Part3_GroundTruth.csv",
            ("image_id", "melanoma", "seborrheic_keratosis"),
            rows,
        )
    return folder
