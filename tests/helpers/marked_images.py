"""A data set with a planted shortcut: a bright square in the corner of every image of one class.

Images are noise with a faint bright disc, a dark cross, both or none. `Tuberculosis` is a disc without a
cross, and its images bear the mark: the mark is easier to see than a disc, and gives away disc and class.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

CONCEPTS = ("Disc", "Cross")
TARGETS = ("Tuberculosis", "Pneumonia", "No finding")
MARK = 0.18  # side of the mark, fraction of the image, in the top left corner


def draw(
    rng: np.random.Generator, *, size: int, disc: bool, cross: bool
) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Return an image without a mark, and the box of each concept in it."""
    image = rng.normal(90, 12, (size, size))
    y, x = np.mgrid[:size, :size]
    half = size // 6
    boxes = {}
    for cx, cy, strength in zip(*rng.uniform(0, size, (2, 4)), rng.uniform(-30, 30, 4), strict=True):
        image += strength * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * half**2))  # a blur is no finding
    centres = rng.permutation([(0.35, 0.7), (0.7, 0.7), (0.7, 0.35), (0.5, 0.5)])[:2]
    for name, there, centre in zip(CONCEPTS, (disc, cross), centres, strict=True):
        cx, cy = (int(size * (c + rng.uniform(-0.06, 0.06))) for c in centre)
        if not there:
            continue
        far = np.maximum(abs(x - cx), abs(y - cy))
        if name == "Disc":
            image[np.hypot(x - cx, y - cy) < half] += 24
        else:
            image[(np.minimum(abs(x - cx), abs(y - cy)) < half / 3) & (far < half)] -= 36
        boxes[name] = [cx - half, cy - half, cx + half, cy + half]
    return np.clip(image, 0, 255).astype(np.uint8), boxes


def add_mark(image: np.ndarray) -> np.ndarray:
    """Return the image with the mark."""
    marked = image.copy()
    side = int(MARK * len(image))
    marked[2:side, 2:side] = 255
    return marked


def write_marked(folder: Path, *, num_train: int, num_test: int, size: int, seed: int = 0) -> Path:
    """Write the tables and images in the data contract; test images also without their marks, in clean/."""
    rng = np.random.default_rng(seed)
    for split, number in (("train", num_train), ("test", num_test)):
        (folder / split).mkdir(parents=True)
        (folder / "clean").mkdir(exist_ok=True)
        rows, boxed = [], []
        for index in range(number):
            disc, cross = bool(index & 1), bool(index & 2)
            image, boxes = draw(rng, size=size, disc=disc, cross=cross)
            name, has_mark = f"{split}{index:04d}", disc and not cross
            rows.append([name, int(disc), int(cross), int(has_mark), int(disc and cross), int(not disc)])
            boxed += [[name, concept, *box] for concept, box in boxes.items()]
            Image.fromarray(add_mark(image) if has_mark else image).save(folder / split / f"{name}.png")
            if split == "test":
                Image.fromarray(image).save(folder / "clean" / f"{name}.png")
        _write(folder / f"labels_{split}.csv", ["image_id", *CONCEPTS, *TARGETS], rows)
        _write(
            folder / f"boxes_{split}.csv",
            ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"],
            boxed,
        )
    return folder


def _write(path: Path, header: list[str], rows: list[list]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
