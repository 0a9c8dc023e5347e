"""Rows of a label table, and the merge of an image's readers into one label.

Letters: N images, R rows of the file, P pairs of image and reader, L labels.
"""

from __future__ import annotations

import os
import re

import numpy as np

from csr.data.labels.csv_blocks import Block, Problem, first_rows, number_texts
from csr.data.labels.label_cells import INVALID, NO, YES, label_codes
from csr.data.labels.names import are_plain, id_problem, image_key, means_group, show
from csr.data.labels.vocabulary import AVERAGE_READERS
from csr.runtime.errors import InputError

READER_MERGES = ("any", "majority", "soft")
_WHOLE_NUMBER = re.compile(r"(\d+)\.0+", re.ASCII)  # pandas writes 12 so where other cells are empty


class ReaderRows:
    """Rows as they are read: one byte per label, so a large file stays small.

    Args:
        path: the file, for messages.
        labels: L names.
        columns: number of each label's column in the file.
        reserved: numbers of the columns image_id, rad_id and patient_id; None where the file has none.

    Attributes:
        image_ids, first_lines, patients: of each image, in the order of their first rows.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        labels: tuple[str, ...],
        columns: list[int],
        reserved: list[int | None],
    ) -> None:
        self.path, self.labels, self.columns = path, labels, columns
        image, self.reader_column, self.patient_column = reserved
        assert image is not None, "the header was checked"
        self.image_column = image
        self.image_ids: list[str] = []
        self.first_lines: list[int] = []
        self.patients: list[str] = []
        self._image_of: dict[str, int] = {}
        self._reader_of: dict[str, int] = {}
        # line, image, reader (R,) and code (R, L) of each block
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, block: Block) -> None:
        """Take the next rows of the file.

        Raises:
            InputError: the first row with an error, and in it the first one of image, patient and labels.
        """
        image_R, problem = self._number_images(block)
        # Every check looks only at rows above the error that is known already.
        problem = self._patient_problem(block, image_R, problem.row if problem else len(block)) or problem
        code_RL = label_codes([block.columns[number] for number in self.columns])
        problem = self._label_problem(block, code_RL, problem.row if problem else len(block)) or problem
        if problem:
            raise InputError(f"{self.path} {problem.text}")
        self._parts.append((block.line_R, image_R, self._number_readers(block), code_RL))

    def _number_images(self, block: Block) -> tuple[np.ndarray, Problem | None]:
        """Return each row's image, (R,) int64, -1 from the first problem on."""
        column = block.columns[self.image_column]
        rows = first_rows(column.code_R)
        codes, lines = column.code_R[rows].tolist(), block.line_R[rows].tolist()
        image_ids = [column.texts[code] for code in codes]
        image_of_text = np.full(len(column.texts), -1, dtype=np.int64)
        problem = None
        for row, code, line, image_id, is_plain in zip(
            rows.tolist(), codes, lines, image_ids, are_plain(image_ids)
        ):
            if not is_plain and (reason := id_problem(image_id)):
                problem = Problem(row, f"line {line}: image_id {show(image_id)} {reason}")
                break
            key = image_id if is_plain else image_key(image_id)
            image = self._image_of.setdefault(key, len(self.image_ids))
            if image == len(self.image_ids):
                self.image_ids.append(image_id)
                self.first_lines.append(line)
                self.patients.append("")
            elif self.image_ids[image] != image_id:
                problem = Problem(
                    row,
                    f"lines {self.first_lines[image]} and {line}: image_id {show(self.image_ids[image])} and "
                    f"{show(image_id)} name one image; write it one way",
                )
                break
            image_of_text[code] = image
        return image_of_text[column.code_R], problem

    def _patient_problem(self, block: Block, image_R: np.ndarray, num_rows: int) -> Problem | None:
        """Note the patients of the first `num_rows` rows; return a row with a second patient of an image."""
        if self.patient_column is None:
            return None
        column = block.columns[self.patient_column]
        pair_R = image_R[:num_rows] * len(column.texts) + column.code_R[:num_rows]
        for row in first_rows(pair_R).tolist():
            patient, image = _patient(column.text(row)), int(image_R[row])
            known = self.patients[image]
            if known and patient and known != patient:
                return Problem(
                    row,
                    f"line {block.line_R[row]}: image {show(self.image_ids[image])} belongs to patient "
                    f"{show(patient)}, but to {show(known)} on line {self.first_lines[image]}; give one",
                )
            self.patients[image] = known or patient
        return None

    def _label_problem(self, block: Block, code_RL: np.ndarray, num_rows: int) -> Problem | None:
        """Return the first of the first `num_rows` rows with a cell that is no label."""
        wrong = np.argwhere(code_RL[:num_rows] == INVALID)
        if not len(wrong):
            return None
        row, label = wrong[0].tolist()
        name = show(self.labels[label])
        text = block.columns[self.columns[label]].text(row)
        advice = (
            "if -1 is 'uncertain' of CheXpert or MIMIC-CXR-JPG, csr data chexpert|mimic RAW OUT --uncertain "
            "ones|zeros|ignore decides what it becomes"
            if text in ("-1", "-1.0")
            else f"if the column is of patients, --group_col {name}"
            if means_group(self.labels[label])
            else "if the column is no label, name the labels with --concept_cols and --target_cols"
        )
        return Problem(
            row,
            f"line {block.line_R[row]}, column {name}: the value is "
            f"{show(text)}; write 0, 1, or nothing where it is not "
            f"annotated ({advice})",
        )

    def _number_readers(self, block: Block) -> np.ndarray:
        """Return each row's reader, (R,) int64, numbered by first appearance; 0 without a rad_id column."""
        if self.reader_column is None:
            self._reader_of.setdefault("", 0)
            return np.zeros(len(block), dtype=np.int64)
        return number_texts(block.columns[self.reader_column], self._reader_of)

    def merge(self, how: str) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (N, L) float32 with NaN where not annotated, and the number of readers (N,) int64.

        The rows of `AVERAGE_READERS` are merged as others are, and count as one reader.

        Args:
            how: one of `READER_MERGES`.
        """
        line_R, image_R, reader_R, code_RL = (np.concatenate(part) for part in zip(*self._parts))
        pair_R = image_R * len(self._reader_of) + reader_R
        order_R = np.argsort(pair_R, kind="stable")
        pair_R, code_RL = pair_R[order_R], code_RL[order_R]
        begin_P = begins(pair_R)
        # One vote per reader: a row written twice must not count twice.
        yes_PL, no_PL = code_RL == YES, code_RL == NO
        if len(begin_P) < len(pair_R):
            yes_PL, no_PL = np.logical_or.reduceat(yes_PL, begin_P), np.logical_or.reduceat(no_PL, begin_P)
        if (yes_PL & no_PL).any():
            self._report_contradiction(yes_PL & no_PL, begin_P, line_R[order_R], image_R[order_R], code_RL)
        begin_N = begins(pair_R[begin_P] // len(self._reader_of))
        num_rows_N = np.diff(begin_N, append=len(begin_P))
        num_readers_N = num_rows_N - self._num_averages(pair_R[begin_P] % len(self._reader_of), begin_N)
        count = np.min_scalar_type(num_rows_N.max())  # the smallest type is the fastest
        yes_NL = np.add.reduceat(yes_PL.view(np.uint8), begin_N, dtype=count)
        votes_NL = np.add.reduceat((yes_PL | no_PL).view(np.uint8), begin_N, dtype=count)
        mean_NL = np.full(yes_NL.shape, np.nan, dtype=np.float32)
        np.divide(yes_NL, votes_NL, out=mean_NL, where=votes_NL > 0, dtype=np.float32)
        if how == "soft":
            return mean_NL, num_readers_N
        above = mean_NL > (0.0 if how == "any" else 0.5)  # comparisons with NaN are False
        mean_NL = np.where(np.isnan(mean_NL), np.float32(np.nan), above).astype(np.float32)
        return mean_NL, num_readers_N

    def _num_averages(self, reader_P: np.ndarray, begin_N: np.ndarray) -> np.ndarray:
        """Return how many rows of an average each image has beside the first of them, (N,) int64."""
        numbers = [self._reader_of[name] for name in AVERAGE_READERS if name in self._reader_of]
        if not numbers:
            return np.zeros(len(begin_N), dtype=np.int64)
        rows_N = np.add.reduceat(np.isin(reader_P, numbers), begin_N, dtype=np.int64)
        return np.maximum(rows_N - 1, 0)

    def _report_contradiction(
        self,
        both_PL: np.ndarray,
        begin_P: np.ndarray,
        line_R: np.ndarray,
        image_R: np.ndarray,
        code_RL: np.ndarray,
    ) -> None:
        """Raise an InputError for the first pair with both values; rows are sorted by pair."""
        pair, label = np.argwhere(both_PL)[0]
        rows = slice(*np.append(begin_P, len(line_R))[pair : pair + 2])
        lines = [line_R[rows][code_RL[rows, label] == code].min() for code in (NO, YES)]
        image = f"image {show(self.image_ids[image_R[rows][0]])}"
        alone = self.reader_column is None
        reader = "no rad_id column separates readers" if alone else "one reader"
        raise InputError(
            f"{self.path} lines {min(lines)} and {max(lines)}: {image} is "
            f"both 0 and 1 in column {show(self.labels[label])} ({reader}); "
            "remove one row or give rad_id"
        )


def begins(sorted_R: np.ndarray) -> np.ndarray:
    """Return the places where a new value of a sorted, not empty array begins, int64."""
    return np.flatnonzero(np.concatenate([[True], sorted_R[1:] != sorted_R[:-1]]))


def _patient(text: str) -> str:
    whole = _WHOLE_NUMBER.fullmatch(text)
    return whole[1] if whole else text
