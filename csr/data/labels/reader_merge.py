"""Rows of a label table, and how the readers of one image become one label.

Letters: N images, R rows of the file, P pairs of image and reader, L labels.
"""

from __future__ import annotations

import os

import numpy as np

from csr.data.labels.names import id_problem, image_key, show
from csr.runtime.errors import InputError

READER_MERGES = ("any", "majority", "soft")
_MISSING = 2
_CODES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "": _MISSING}


class ReaderRows:
    """Rows as they are read: one byte per label, so a large file stays small."""

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
        self.lines: list[int] = []
        self.codes = bytearray()
        self.images: list[int] = []
        self.readers: list[int] = []
        self._image_of: dict[str, int] = {}
        self._reader_of: dict[str, int] = {}

    def add(self, line: int, cells: list[str]) -> None:
        """Takes one row of the file."""
        image = self._image(line, cells[self.image_column])
        if self.patient_column is not None:
            self._check_patient(line, image, cells[self.patient_column])
        reader = "" if self.reader_column is None else cells[self.reader_column]
        self.lines.append(line)
        self.images.append(image)
        self.readers.append(self._reader_of.setdefault(reader, len(self._reader_of)))
        codes = [_CODES.get(cells[column]) for column in self.columns]
        if None in codes:
            at = codes.index(None)
            raise InputError(
                f"{self.path} line {line}, column {show(self.labels[at])}: the value is "
                f"{show(cells[self.columns[at]])}; write 0, 1, or nothing where it is not annotated "
                "(if the column is no label, name the labels with --concept_cols and --target_cols)"
            )
        self.codes.extend(code for code in codes if code is not None)

    def _image(self, line: int, image_id: str) -> int:
        problem = id_problem(image_id)
        if problem:
            raise InputError(f"{self.path} line {line}: image_id {show(image_id)} {problem}")
        image = self._image_of.setdefault(image_key(image_id), len(self.image_ids))
        if image == len(self.image_ids):
            self.image_ids.append(image_id)
            self.first_lines.append(line)
            self.patients.append("")
        elif self.image_ids[image] != image_id:
            raise InputError(
                f"{self.path} lines {self.first_lines[image]} and {line}: image_id "
                f"{show(self.image_ids[image])} and {show(image_id)} name one image; write it "
                "one way"
            )
        return image

    def _check_patient(self, line: int, image: int, patient: str) -> None:
        known = self.patients[image]
        if known and patient and known != patient:
            raise InputError(
                f"{self.path} line {line}: image {show(self.image_ids[image])} belongs to patient "
                f"{show(patient)}, but to {show(known)} on line {self.first_lines[image]}; give one"
            )
        self.patients[image] = known or patient

    def merge(self, how: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns labels (N, L) float32 with NaN, and the number of readers (N,) int64."""
        code_RL = np.frombuffer(self.codes, np.uint8).reshape(len(self.lines), len(self.labels))
        image_R = np.asarray(self.images, dtype=np.int64)
        pair_R = image_R * len(self._reader_of) + np.asarray(self.readers, dtype=np.int64)
        pair_P, inverse_R = np.unique(pair_R, return_inverse=True)
        # One vote per reader: a row written twice must not count twice.
        yes_PL = np.zeros((len(pair_P), len(self.labels)), dtype=bool)
        no_PL = np.zeros_like(yes_PL)
        np.logical_or.at(yes_PL, inverse_R, code_RL == 1)
        np.logical_or.at(no_PL, inverse_R, code_RL == 0)
        if (yes_PL & no_PL).any():
            self._report_contradiction(code_RL, inverse_R, yes_PL & no_PL)
        image_P = pair_P // len(self._reader_of)
        yes_NL = np.zeros((len(self.image_ids), len(self.labels)), dtype=np.float32)
        votes_NL = np.zeros_like(yes_NL)
        np.add.at(yes_NL, image_P, yes_PL)
        np.add.at(votes_NL, image_P, yes_PL | no_PL)
        mean_NL = np.divide(yes_NL, votes_NL, out=np.full_like(yes_NL, np.nan), where=votes_NL > 0)
        num_readers_N = np.bincount(image_P, minlength=len(self.image_ids)).astype(np.int64)
        if how == "soft":
            return mean_NL, num_readers_N
        above = mean_NL > (0.0 if how == "any" else 0.5)  # comparisons with NaN are False
        mean_NL = np.where(np.isnan(mean_NL), np.float32(np.nan), above).astype(np.float32)
        return mean_NL, num_readers_N

    def _report_contradiction(self, code_RL: np.ndarray, inverse_R: np.ndarray, both_PL: np.ndarray) -> None:
        pair, label = np.argwhere(both_PL)[0]
        rows = np.flatnonzero(inverse_R == pair)
        first = {code: self.lines[rows[code_RL[rows, label] == code][0]] for code in (0, 1)}
        image = f"image {show(self.image_ids[self.images[rows[0]]])}"
        alone = self.reader_column is None
        whose = "no rad_id column tells readers apart" if alone else "one reader"
        raise InputError(
            f"{self.path} lines {min(first.values())} and {max(first.values())}: {image} is "
            f"both 0 and 1 in column {show(self.labels[label])} ({whose}); "
            "remove one row or give rad_id"
        )
