"""Boxes of a split: counts by class, and whether they are plausible.

Letters: N images, R boxes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from csr.data.check.facts import Split
from csr.data.images.square import CROP, frames_of
from csr.data.labels.boxes import KEPT_SHARE, BoxTable, read_boxes
from csr.data.labels.names import show, show_some
from csr.data.labels.positive import is_positive

LARGE, SMALL_PX = 0.9, 3.0  # share of the image's area, and pixels of a side
MIN_BOXES = 20  # fewer may lie anywhere
CORNER = 0.6  # of width and height: boxes that never reach beyond were drawn on smaller images
_UNREAD = 2**31  # side of images that cannot be read


def box_facts(path: str, split: Split) -> dict[str, Any]:
    """Return counts of boxes by class, of those on images without the finding, and of implausible ones.

    Raises:
        InputError: the file cannot be read, or boxes lie outside of their images.
    """
    boxes = read_boxes(path, table=split.table)
    size_N2 = np.full((len(split.table), 2), _UNREAD, dtype=np.int64)
    for row, one in split.scanned.items():
        size_N2[row] = one.height, one.width
    boxes = boxes.check_inside(size_N2)
    present_R = is_positive(split.table.concept_NK[boxes.image_R, boxes.class_R])
    side_R2 = boxes.pixel_R4[:, 2:] - boxes.pixel_R4[:, :2]
    area_R = np.prod(side_R2 / size_N2[boxes.image_R][:, ::-1], axis=1)
    classes = {}
    for place, name in enumerate(split.table.concept_names):
        own_R = boxes.class_R == place
        positive_N = is_positive(split.table.concept_NK[:, place])
        classes[name] = {
            "boxes": int(own_R.sum()),
            "images": int(len(np.unique(boxes.image_R[own_R]))),
            "positive_without": int(np.setdiff1d(np.flatnonzero(positive_N), boxes.image_R[own_R]).size),
            "on_absent": int((own_R & ~present_R).sum()),
            "median_area": float(np.median(area_R[own_R])) if own_R.any() else None,
        }
    cropped = boxes.in_square(frames_of(size_N2, resize=CROP, side=1))
    return {
        "csv": Path(path).name,
        "boxes": len(boxes),
        "images": int(len(np.unique(boxes.image_R))),
        "classes": classes,
        "ignored": boxes.ignored,
        "large": int((area_R >= LARGE).sum()),
        "small": int((side_R2 < SMALL_PX).any(axis=1).sum()),
        "repeated": _repeated(boxes),
        "reach": _reach(boxes, size_N2),
        "crop": {"cut": cropped.num_cut, "left_out": cropped.num_outside},
    }


def _repeated(boxes: BoxTable) -> int:
    """Return the boxes that are on their image, in their class, a second time."""
    key_R6 = np.column_stack([boxes.image_R, boxes.class_R, boxes.pixel_R4])
    return len(key_R6) - len(np.unique(key_R6, axis=0)) if len(key_R6) else 0


def _reach(boxes: BoxTable, size_N2: np.ndarray) -> list[float] | None:
    """Return the largest x_max and y_max, fractions of their images' sides; None without a readable image."""
    size_R2 = size_N2[boxes.image_R][:, ::-1]
    share_R2 = (boxes.pixel_R4[:, 2:] / size_R2)[(size_R2 < _UNREAD).all(axis=1)]
    return share_R2.max(axis=0).tolist() if len(share_R2) else None


def box_warnings(found: dict[str, Any]) -> list[str]:
    """Return lines on boxes that may not be what they should be.

    Args:
        found: of `box_facts`.
    """
    lines, csv, count = [], found["csv"], found["boxes"]
    if found["large"]:
        lines.append(f"{csv}: {found['large']} of {count} boxes cover {LARGE:.0%} of their image or more")
    if found["small"]:
        lines.append(f"{csv}: {found['small']} of {count} boxes have a side of less than {SMALL_PX:g} pixels")
    if found["repeated"]:
        lines.append(f"{csv}: {found['repeated']} of {count} boxes are there twice on their image")
    reach = found["reach"]
    if count >= MIN_BOXES and reach is not None and max(reach) <= CORNER:
        lines.append(
            f"{csv}: no box reaches beyond {max(reach):.0%} of the width or height of its image: were they "
            "drawn on smaller images? scale them to the pixels of these"
        )
    absent = {name: row["on_absent"] for name, row in found["classes"].items() if row["on_absent"]}
    if absent:
        some = show_some([f"{show(name)} ({number})" for name, number in absent.items()], limit=5)
        lines.append(
            f"{csv}: {sum(absent.values())} of {count} boxes are on images without that finding and are not "
            f"used: {some}"
        )
    bare = [name for name, row in found["classes"].items() if row["boxes"] == 0 and row["positive_without"]]
    if bare and len(bare) < len(found["classes"]):
        lines.append(f"{csv}: no box for {show_some([show(name) for name in bare], limit=5)}")
    crop = found["crop"]
    if crop["left_out"]:
        lines.append(
            f"{csv}: with --resize crop {crop['left_out']} of {count} boxes are not used, of which less than "
            f"{KEPT_SHARE:.0%} lies in the central square, and {crop['cut']} are cut"
        )
    return lines
