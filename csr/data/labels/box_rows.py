"""Rows of a box table: numbers, images and classes of each block checked column by column.

Letters: R rows of a block, or boxes of the file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection

import numpy as np

from csr.data.labels.csv_blocks import Block, Problem, each_cell
from csr.data.labels.names import image_key, name_key, show
from csr.data.labels.table import LabelTable
from csr.runtime.errors import InputError

SIDES = ("x_min", "y_min", "x_max", "y_max")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_EMPTY, _INVALID = np.nan, np.inf  # stand for cells that hold no number


class BoxRows:
    """Boxes as they are read.

    Args:
        path: the file, for messages.
        table: the label table with the images and concepts that the boxes name.
        names: the cleaned header.
        allow_unknown: omit boxes on images that are not in the table instead of refusing them.
        left_out: ids of images that are not in the table on purpose; their boxes are omitted.

    Attributes:
        num_rows: rows that were read, with or without a box.
        num_unknown: boxes on images that are not in the table (with `allow_unknown`).
        ignored: boxes by the name of a class that is no concept of the table.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: LabelTable,
        names: list[str],
        *,
        allow_unknown: bool,
        left_out: Collection[str],
    ) -> None:
        self.path, self.table = path, table
        self.num_rows = self.num_unknown = 0
        self.ignored: Counter[str] = Counter()
        column = {name_key(name): number for number, name in enumerate(names)}
        self._image_column, self._class_column = column["image_id"], column["class_name"]
        self._side_columns = [column[side] for side in SIDES]
        self._allow_unknown = allow_unknown
        self._image_of = {image_key(name): number for number, name in enumerate(table.image_ids)}
        self._class_of = {name_key(name): number for number, name in enumerate(table.concept_names)}
        self._left_out = {image_key(name) for name in left_out}
        # image, class, line (R,) and pixels (R, 4) of each block
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, block: Block) -> None:
        """Take the next rows of the file.

        Raises:
            InputError: the first row with an error, and in it the first one of coordinates, image and class.
        """
        self.num_rows += len(block)
        image, name = block.columns[self._image_column], block.columns[self._class_column]
        pixel_R4 = each_cell([block.columns[n] for n in self._side_columns], _pixels, float)
        empty_R = np.isnan(pixel_R4).all(axis=1)
        omitted_R = image.each(lambda text: image_key(text) in self._left_out, bool)
        image_R = image.each(lambda text: self._image_of.get(image_key(text), -1), np.int64)
        class_R = name.each(lambda text: self._class_of.get(name_key(text), -1), np.int64)
        # Every check looks only at rows above the errors that are known already.
        problem = self._box_problem(block, pixel_R4, empty_R)
        above = problem.row if problem else len(block)
        if not self._allow_unknown:
            problem = self._image_problem(block, (image_R < 0) & ~omitted_R, above) or problem
            above = problem.row if problem else len(block)
        box_R = ~omitted_R & ~empty_R
        problem = self._class_problem(block, name.each(lambda text: not text, bool) & box_R, above) or problem
        if problem:
            raise InputError(f"{self.path} {problem.text}")
        self.num_unknown += int((box_R & (image_R < 0)).sum())
        box_R &= image_R >= 0
        self.ignored.update(name.text(row) for row in np.flatnonzero(box_R & (class_R < 0)).tolist())
        box_R &= class_R >= 0
        self._parts.append((image_R[box_R], class_R[box_R], block.line_R[box_R], pixel_R4[box_R]))

    def sorted_by_image(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return image, class and line (R,), int64, and pixels (R, 4), float64, of at least one row."""
        image_R, class_R, line_R, pixel_R4 = (np.concatenate(part) for part in zip(*self._parts))
        order = np.argsort(image_R, kind="stable")
        return image_R[order], class_R[order], line_R[order], pixel_R4[order]

    def _box_problem(self, block: Block, pixel_R4: np.ndarray, empty_R: np.ndarray) -> Problem | None:
        """Return the first row whose coordinates are neither a box nor all empty."""
        number_R4 = np.isfinite(pixel_R4)
        wrong_R4 = ~number_R4 | (pixel_R4 < 0)
        with np.errstate(invalid="ignore"):
            reversed_R2 = pixel_R4[:, :2] >= pixel_R4[:, 2:]
        rows = np.flatnonzero((wrong_R4.any(axis=1) | reversed_R2.any(axis=1)) & ~empty_R)
        if not len(rows):
            return None
        row = int(rows[0])
        location = f"line {block.line_R[row]}"
        for side, column, wrong, number in zip(SIDES, self._side_columns, wrong_R4[row], number_R4[row]):
            if wrong:
                fix = "is negative; give pixels inside" if number else "is not a number; give pixels"
                cell = show(block.columns[column].text(row))
                return Problem(row, f"{location}, column {side}: {cell} {fix}")
        axis = 0 if reversed_R2[row, 0] else 1
        low, high = pixel_R4[row, axis], pixel_R4[row, axis + 2]
        return Problem(
            row,
            f"{location}: {'xy'[axis]}_max {high:g} is not greater than {'xy'[axis]}_min {low:g}; give the "
            "smaller value first",
        )

    def _image_problem(self, block: Block, unknown_R: np.ndarray, num_rows: int) -> Problem | None:
        rows = np.flatnonzero(unknown_R[:num_rows])
        if not len(rows):
            return None
        row = int(rows[0])
        image_id = block.columns[self._image_column].text(row)
        return Problem(
            row,
            f"line {block.line_R[row]}: image_id {show(image_id)} is not in {self.table.path}; "
            "give the boxes of that file's images",
        )

    def _class_problem(self, block: Block, nameless_R: np.ndarray, num_rows: int) -> Problem | None:
        rows = np.flatnonzero(nameless_R[:num_rows])
        if not len(rows):
            return None
        row = int(rows[0])
        return Problem(
            row, f"line {block.line_R[row]}: class_name is empty; name the concept that the box shows"
        )


def _pixels(text: str) -> float:
    """Return a coordinate; `_EMPTY` for an empty cell and `_INVALID` for what is no number."""
    if not text:
        return _EMPTY
    return float(text) if _NUMBER.fullmatch(text) else _INVALID
