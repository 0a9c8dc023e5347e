"""The phantom on disk as VinDr-CXR is: two image folders, two label and two box tables."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from csr.data.phantom.draw import Case, draw_case
from csr.data.phantom.readers import Reading, read_case
from csr.data.phantom.rules import DIAGNOSES, FINDINGS, SPLITS, rng_for
from csr.data.phantom.scene import Box
from csr.runtime.errors import InputError
from csr.runtime.output_paths import check_output_folder

FILES = ("labels_train.csv", "labels_test.csv", "boxes_train.csv", "boxes_test.csv")
PIXEL_FORMATS = ("grey8", "grey8", "grey16", "rgb")
BOX_COLUMNS = ("class_name", "x_min", "y_min", "x_max", "y_max")
_IMAGE_NAME = re.compile(r"[0-9a-f]{32}\.png")

Row = tuple[str | float, ...]


def write_phantom(
    out: Path, *, num_train: int, num_test: int, size: int, seed: int, overwrite: bool = False
) -> None:
    """Draw and write a whole data set; tables come last, so that a table means all is there.

    Args:
        out: folder to make; must be empty or absent unless `overwrite`.
        num_train: training images, read by three readers each.
        num_test: test images, labelled with the truth.
        size: height of the pictures, pixels.
        seed: same seed, same bytes; image i of a split does not depend on the numbers of images.
        overwrite: replace an earlier phantom; only files that this function writes are removed.

    Raises:
        InputError: `out` is a file, is not empty, or cannot be written.
    """
    try:
        _prepare(out, overwrite=overwrite)
        tables = {
            split: _write_images(out / split, split=split, num_images=number, size=size, seed=seed)
            for split, number in (("train", num_train), ("test", num_test))
        }
        for split, (labels, boxes) in tables.items():
            keys = ("image_id", "rad_id") if split == "train" else ("image_id",)
            _write_table(out / f"labels_{split}.csv", (*keys, *FINDINGS, *DIAGNOSES), labels)
            _write_table(out / f"boxes_{split}.csv", (*keys, *BOX_COLUMNS), boxes)
    except OSError as error:
        raise InputError(f"{out}: cannot write the phantom there: {error}") from error


def image_id_for(seed: int, *, split: str, index: int) -> str:
    """Return the 32 hexadecimal digits that name image `index` of a split."""
    return hashlib.blake2b(f"phantom/{seed}/{split}/{index}".encode(), digest_size=16).hexdigest()


def _prepare(out: Path, *, overwrite: bool) -> None:
    check_output_folder(out, overwrite=overwrite, content="an earlier phantom", flag="")
    if out.is_dir() and any(out.iterdir()):
        _remove_phantom(out)
    for split in SPLITS:
        (out / split).mkdir(parents=True, exist_ok=True)


def _remove_phantom(out: Path) -> None:
    """Remove what an earlier call wrote and nothing else."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    for split in SPLITS:
        for path in (out / split).glob("*.png"):
            if _IMAGE_NAME.fullmatch(path.name):
                path.unlink()


def _write_images(
    folder: Path, *, split: str, num_images: int, size: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Write one split's pictures; returns its label rows and box rows."""
    labels: list[Row] = []
    boxes: list[Row] = []
    for index in range(num_images):
        case = draw_case(seed, split=split, index=index, size=size)
        rng = rng_for(seed, split, 3, index)
        image_id = image_id_for(seed, split=split, index=index)
        pixel_format = PIXEL_FORMATS[int(rng.integers(len(PIXEL_FORMATS)))]
        picture = encode(case.image_HW, pixel_format=pixel_format)
        picture.save(folder / f"{image_id}.png", compress_level=1)
        for key, findings, diagnoses, drawn in _annotate(case, split=split, rng=rng):
            marks = {*findings, *diagnoses}
            labels.append((image_id, *key, *(int(name in marks) for name in (*FINDINGS, *DIAGNOSES))))
            boxes += [(image_id, *key, name, *box) for name, box in drawn]
    return labels, boxes


def _annotate(
    case: Case, *, split: str, rng: np.random.Generator
) -> list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[tuple[str, Box], ...]]]:
    """Return the rows of one picture: (reader or nothing, findings, diagnoses, boxes)."""
    if split == "test":
        return [((), case.plan.findings, case.plan.diagnoses, case.boxes)]
    height, width = case.image_HW.shape
    readings: list[Reading] = read_case(case.plan, boxes=case.boxes, width=width, height=height, rng=rng)
    return [((r.rad_id,), r.findings, r.diagnoses, r.boxes) for r in readings]


def encode(image_HW: np.ndarray, *, pixel_format: str) -> Image.Image:
    """Encode a picture of 0..1 as 8-bit grey, 16-bit grey over the full range, or RGB."""
    if pixel_format == "grey16":
        return Image.fromarray(np.rint(image_HW * 65535.0).astype(np.uint16))
    grey = Image.fromarray(np.rint(image_HW * 255.0).astype(np.uint8))
    return grey.convert("RGB") if pixel_format == "rgb" else grey


def _write_table(path: Path, columns: Iterable[str], rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
