"""Boxes of NIH ChestX-ray14: x, y, width and height in pixels of the published images."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from csr.data.importers.boxes import checked_box
from csr.data.importers.chest.label_choice import Choice, count_notices
from csr.data.importers.image_rows import image_stem
from csr.data.importers.output import BOX_COLUMNS, Output
from csr.data.importers.published_csv import published_rows
from csr.data.importers.summary import SPLITS, Imported
from csr.data.importers.tbx11k_boxes import image_size
from csr.data.labels.names import show
from csr.runtime.errors import InputError

NUM_BOXES = 984
PUBLISHED_PX = 1024  # width and height of the images that the boxes were drawn on
NAME, CLASS = "Image Index", "Finding Label"
SIDES = ("Bbox [x", "y", "w", "h]")  # the header is not quoted: 'Bbox [x,y,w,h]' is four cells
SYNONYMS = {"Infiltrate": "Infiltration"}
_Drawn = list[tuple[str, str, tuple[float, ...]]]  # image file, class, edges


def write_boxes(
    path: Path,
    output: Output,
    imported: Imported,
    *,
    names: dict[str, dict[str, str]],
    folder: Path,
    choice: Choice,
) -> None:
    """Write the boxes of each split that has some.

    Args:
        path: BBox_List_2017.csv.
        output: OUT, open.
        imported: its notices grow.
        names: file of each image in the label tables by its place without suffix, of each split.
        folder: that the files are relative to.
        choice: boxes of its concepts are written.

    Raises:
        InputError: a row that is no box of the data set.
    """
    split_of = {
        image.rpartition("/")[2]: (split, name) for split in SPLITS for image, name in names[split].items()
    }
    drawn: dict[str, _Drawn] = {split: [] for split in SPLITS}
    number, scaled, other, homeless = 0, Counter[str](), Counter[str](), 0
    for location, row in published_rows(path, columns=(NAME, CLASS, *SIDES), scratch=output.scratch):
        number += 1
        image, kind = image_stem(row[NAME]), SYNONYMS.get(row[CLASS], row[CLASS])
        if image not in split_of:
            homeless += 1
            continue
        if kind not in choice.concepts:
            other[kind] += 1
            continue
        split, name = split_of[image]
        size = image_size(folder / name)
        scaled[f"{size[0]} x {size[1]}"] += size != (PUBLISHED_PX, PUBLISHED_PX)
        edges = _edges([row[side] for side in SIDES], size, location)
        drawn[split].append((name, kind, checked_box(edges, location=location, size=size)))
    for split in SPLITS:
        if drawn[split]:
            with output.table(f"boxes_{split}.csv", ("image_id", *BOX_COLUMNS)) as table:
                table.writerows([name, kind, *box] for name, kind, box in drawn[split])
    count_notices(imported, {"boxes": (number, NUM_BOXES)})
    if other:
        kinds = ", ".join(f"{show(kind)} {count}" for kind, count in other.most_common())
        imported.notices.append(f"boxes that show no concept are left out: {kinds}")
    if homeless:
        imported.notices.append(f"{homeless} boxes are left out: their image is not in the tables")
    if scaled.total():
        sizes = ", ".join(size for size, count in scaled.items() if count)
        imported.notices.append(
            f"{scaled.total()} boxes are scaled from 1024 x 1024 to the size of their image ({sizes}): right "
            "if the images were scaled as a whole"
        )


def _edges(cells: list[str], size: tuple[int, int], location: str) -> tuple[float, float, float, float]:
    """Return the edges of a box in pixels of an image that was scaled to `size`, width and height."""
    try:
        x, y, width, height = map(float, cells)
    except ValueError:
        x = math.nan
    if not math.isfinite(x):
        raise InputError(
            f"{location}: {', '.join(map(show, cells))} are not x, y, w and h; give the published file"
        )
    across, down = size[0] / PUBLISHED_PX, size[1] / PUBLISHED_PX
    return x * across, y * down, (x + width) * across, (y + height) * down
