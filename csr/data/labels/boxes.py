"""Boxes around findings: the table, the check against image sizes, and lookup by image as fractions of it.

Letters: N images, R boxes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from csr.data.images.square import boxes_in_square
from csr.data.labels.box_rows import SIDES, BoxRows
from csr.data.labels.csv_file import CsvFile
from csr.data.labels.csv_header import read_header
from csr.data.labels.names import show, show_some
from csr.data.labels.table import LabelTable
from csr.runtime.errors import InputError

_MOST, _ROUNDING = 0.99, 0.01  # share of the boxes, and how far fractions may pass 1

KEPT_SHARE = 0.25  # of a box's area: with less in the square it is left out, with more it is cut at the edge
EDGE_TOLERANCE_PX = 1.0  # annotation tools round: what reaches less than a pixel over the edge is cut off


@dataclass(frozen=True, eq=False)
class BoxTable:
    """Boxes of the images of a label table, sorted by image.

    Attributes:
        path: the CSV file, for messages.
        table: the label table.
        image_R: (R,) int64, each box's row in the label table, ascending.
        class_R: (R,) int64, its concept.
        pixel_R4: (R, 4) float64, x_min, y_min, x_max, y_max in pixels of the original image as displayed.
        line_R: (R,) int64, its line in the file.
        ignored: number of boxes by class, of classes that are no concept of the table.
        num_unknown: boxes on images that are not in the table (with `allow_unknown`).
        size_N2: (N, 2) int64, height and width of each original image in pixels; None before `check_inside`.
        frame_N4: (N, 4) float64, the square that is seen of each image, see `csr.data.images.square`; None:
            the whole image.
        num_cut, num_outside: boxes that were cut at the edge of the square, and that were left out.
    """

    path: str
    table: LabelTable
    image_R: np.ndarray
    class_R: np.ndarray
    pixel_R4: np.ndarray
    line_R: np.ndarray
    ignored: dict[str, int]
    num_unknown: int = 0
    size_N2: np.ndarray | None = None
    frame_N4: np.ndarray | None = None
    num_cut: int = 0
    num_outside: int = 0

    def __len__(self) -> int:
        return len(self.image_R)

    def check_inside(self, size_N2: np.ndarray) -> BoxTable:
        """Return the table with known image sizes and with boxes cut at the edge.

        Args:
            size_N2: (N, 2) integers, height and width of each image of the label table, in pixels.

        Raises:
            InputError: boxes that reach a pixel or more over the edge of their image.
        """
        size_N2 = np.asarray(size_N2, dtype=np.int64)
        assert size_N2.shape == (len(self.table), 2), "one height and width for each image"
        limit_R4 = size_N2[self.image_R][:, [1, 0, 1, 0]]
        over_R4 = self.pixel_R4 - limit_R4
        bad_R = (over_R4 >= EDGE_TOLERANCE_PX).any(1) | (over_R4[:, :2] >= 0).any(1)
        if bad_R.any():
            self._report_outside(np.flatnonzero(bad_R), limit_R4)
        return dataclasses.replace(self, pixel_R4=np.minimum(self.pixel_R4, limit_R4), size_N2=size_N2)

    def in_square(self, frame_N4: np.ndarray) -> BoxTable:
        """Return the boxes as seen in a square part of their images; `check_inside` comes first.

        A box is cut at the edge of the square. One of which less than `KEPT_SHARE` of its area is left is
        left out: too little of the finding is seen there to say where it is.

        Args:
            frame_N4: float64, the square of each image of the label table, as fractions of the image.
        """
        assert self.size_N2 is not None, "check_inside comes first"
        size_R4 = self.size_N2[self.image_R][:, [1, 0, 1, 0]]
        edge_R4 = frame_N4[self.image_R] * size_R4
        low_R2 = np.maximum(self.pixel_R4[:, :2], edge_R4[:, :2])
        high_R2 = np.minimum(self.pixel_R4[:, 2:], edge_R4[:, 2:])
        whole_R = np.prod(self.pixel_R4[:, 2:] - self.pixel_R4[:, :2], axis=1)
        left_R = np.prod((high_R2 - low_R2).clip(min=0), axis=1)
        kept_R = left_R >= KEPT_SHARE * whole_R
        return dataclasses.replace(
            self,
            image_R=self.image_R[kept_R],
            class_R=self.class_R[kept_R],
            pixel_R4=np.concatenate([low_R2, high_R2], axis=1)[kept_R],
            line_R=self.line_R[kept_R],
            frame_N4=frame_N4,
            num_cut=int((kept_R & (left_R < whole_R)).sum()),
            num_outside=int((~kept_R).sum()),
        )

    def square_lines(self) -> list[str]:
        """Return a line on boxes that the square cuts or leaves out, if there are any."""
        if not self.num_cut and not self.num_outside:
            return []
        return [
            f"{self.path}: of {len(self) + self.num_outside} boxes {self.num_cut} are cut at the edge of the "
            f"central square, and {self.num_outside} are not used, of which less than {KEPT_SHARE:.0%} lies "
            "in it (--resize letterbox shows the whole image)"
        ]

    def _report_outside(self, rows: np.ndarray, limit_R4: np.ndarray) -> None:
        problems = [
            f"line {self.line_R[r]}: {self.pixel_R4[r].round(1).tolist()} on image "
            f"{show(self.table.image_ids[self.image_R[r]])} of {limit_R4[r, 0]}x{limit_R4[r, 1]} pixels"
            for r in rows[np.argsort(self.line_R[rows])]
        ]
        width, height = (int(side) for side in self.pixel_R4[:, 2:].max(axis=0))
        raise InputError(
            f"{self.path}: {len(problems)} box(es) outside their image: {show_some(problems, limit=5)}; "
            "give x_min,y_min,x_max,y_max in pixels of the original image (the largest corner is "
            f"{width} x {height}: if the images were scaled down, scale the boxes too)"
        )

    def for_batch(self, index_B: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the boxes of some images; `check_inside` comes first.

        Args:
            index_B: B rows of the label table, in any order, also repeated.

        Returns:
            `row_R` (R,) int64, each box's place in `index_B`; `class_R` (R,) int64; `box_R4` (R, 4) float32,
            x_min, y_min, x_max, y_max as fractions of the square that is seen, in [0, 1].
        """
        assert self.size_N2 is not None, "check_inside comes first"
        index = np.asarray(index_B, dtype=np.int64)
        first_B = np.searchsorted(self.image_R, index, side="left")
        count_B = np.searchsorted(self.image_R, index, side="right") - first_B
        row_R = np.repeat(np.arange(len(index)), count_B)
        at_R = np.repeat(first_B - (np.cumsum(count_B) - count_B), count_B) + np.arange(len(row_R))
        size_R4 = self.size_N2[self.image_R[at_R]][:, [1, 0, 1, 0]]
        box_R4 = self.pixel_R4[at_R] / size_R4
        if self.frame_N4 is not None:
            box_R4 = boxes_in_square(box_R4, self.frame_N4[self.image_R[at_R]]).clip(0, 1)
        return row_R, self.class_R[at_R], box_R4.astype(np.float32)

    def for_image(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `class_R` (R,) and `box_R4` (R, 4) of one image, see `for_batch`."""
        _, class_R, box_R4 = self.for_batch([index])
        return class_R, box_R4


def read_boxes(
    path: str | os.PathLike[str],
    *,
    table: LabelTable,
    allow_unknown: bool = False,
    left_out: Collection[str] = (),
) -> BoxTable:
    """Read `image_id[,rad_id],class_name,x_min,y_min,x_max,y_max`, pixels of the original image.

    Pixels are those of the image as displayed, edges count from 0 to its width and height. A row whose four
    coordinates are empty means 'no box' (VinDr-CXR's 'No finding') and is skipped. Boxes of classes that are
    no concept of the table are omitted and counted in `ignored`. Further columns are ignored; the boxes of
    all readers are kept.

    Args:
        path: the CSV file.
        table: the label table with the images and concepts that the boxes name.
        allow_unknown: omit boxes on images that are not in the table instead of refusing them.
        left_out: ids of images that are not in the table on purpose; their boxes are omitted.

    Raises:
        InputError: a coordinate that is no number, negative or reversed, an unknown image, no row, no class
            that is a concept; with file, line and fix.
    """
    with CsvFile(path) as file:
        names = read_header(file.rows(), path, required=("image_id", "class_name", *SIDES))
        rows = BoxRows(path, table, names, allow_unknown=allow_unknown, left_out=left_out)
        for block in file.blocks():
            rows.add(block)
    if not rows.num_rows:
        raise InputError(f"{path}: no rows below the header; give boxes or leave the file out")
    image_R, class_R, line_R, pixel_R4 = rows.sorted_by_image()
    if rows.ignored and not len(image_R):
        classes = show_some([show(name) for name in rows.ignored], limit=8)
        raise InputError(
            f"{path}: no class_name ({classes}) is a concept of {table.path}; use its column names"
        )
    # fractions that were computed (YOLO's centres and sides) may pass 1 by a rounding
    if len(pixel_R4) and np.quantile(pixel_R4.max(axis=1), _MOST) <= 1 + _ROUNDING:
        few = "no" if pixel_R4.max() <= 1 else "hardly any"
        raise InputError(
            f"{path}: {few} coordinate is above 1, so the boxes look like fractions of the image; give "
            "x_min,y_min,x_max,y_max in pixels of the original image"
        )
    ignored = dict(rows.ignored)
    return BoxTable(str(path), table, image_R, class_R, pixel_R4, line_R, ignored, rows.num_unknown)
