"""The label table: one row per image and reader in the file, one per image in memory (VinDr-CXR's format).

Letters: N images, K concepts, T targets, L labels (K+T).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from csr.data.labels.csv_file import CsvFile
from csr.data.labels.csv_header import read_header
from csr.data.labels.names import image_key, name_key, show, show_some
from csr.data.labels.positive import is_positive
from csr.data.labels.reader_merge import READER_MERGES, ReaderRows
from csr.data.labels.vocabulary import (
    DEFAULT_TARGETS,
    RESERVED_COLUMNS,
    Vocabulary,
    choose_columns,
    match_columns,
)
from csr.runtime.errors import InputError


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Labels of N images, readers merged, in the order in which images first appear in the file.

    Attributes:
        path: the CSV file, for messages.
        image_ids: N ids as written in the file.
        concept_names, target_names: the K and T columns, in order.
        concept_NK, target_NT: float32 in [0, 1]; NaN where not annotated.
        row_numbers: the first line of each image in the file (the header is line 1).
        patient_ids: one per image, '' where unknown; None if the file has no such column.
        num_readers_N: (N,) int64, readers of each image (1 without a rad_id column; the rows of an average,
            `csr.data.labels.vocabulary.AVERAGE_READERS`, are one).
        ignored_names: label columns omitted on purpose.
    """

    path: str
    image_ids: tuple[str, ...]
    concept_names: tuple[str, ...]
    target_names: tuple[str, ...]
    concept_NK: np.ndarray
    target_NT: np.ndarray
    row_numbers: tuple[int, ...]
    patient_ids: tuple[str, ...] | None
    num_readers_N: np.ndarray
    ignored_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the names alone, as they are stored with a model."""
        return Vocabulary(self.concept_names, self.target_names, self.ignored_names)

    def where(self, index: int) -> str:
        """Return an image's location for a message: `labels.csv line 7 (image 'abc')`."""
        return f"{self.path} line {self.row_numbers[index]} (image {show(self.image_ids[index])})"

    def select(self, indices: Sequence[int] | np.ndarray) -> LabelTable:
        """Return the table of some images, in the order of `indices` (integers, rows of this table)."""
        chosen = np.asarray(indices, dtype=np.int64)
        patients = self.patient_ids
        return dataclasses.replace(
            self,
            image_ids=tuple(self.image_ids[i] for i in chosen),
            concept_NK=self.concept_NK[chosen],
            target_NT=self.target_NT[chosen],
            row_numbers=tuple(self.row_numbers[i] for i in chosen),
            patient_ids=None if patients is None else tuple(patients[i] for i in chosen),
            num_readers_N=self.num_readers_N[chosen],
        )


def without(table: LabelTable, image_ids: Collection[str]) -> LabelTable:
    """Return the table without some images, named as in the file."""
    gone = {image_key(name) for name in image_ids}
    kept = [n for n, name in enumerate(table.image_ids) if not gone or image_key(name) not in gone]
    return table if len(kept) == len(table) else table.select(kept)


def read_label_table(
    path: str | os.PathLike[str],
    *,
    concept_cols: Sequence[str] | None = None,
    target_cols: Sequence[str] | None = None,
    reader_merge: str = "any",
    group_col: str | None = None,
    vocabulary: LabelTable | Vocabulary | None = None,
) -> LabelTable:
    """Read a CSV of labels: `image_id`, optional `rad_id` and `patient_id`, then 0/1 columns.

    Column names match without regard to case, width and invisible characters, and 'Other diseases'
    is 'Other disease'. Label cells are 0, 1, 0.0, 1.0 or empty (not annotated).

    Args:
        path: the file, UTF-8 with or without a byte order mark, comma separated.
        concept_cols, target_cols: the columns to use. With neither, a column is a target if its name is one
            of `DEFAULT_TARGETS`, else a concept. With `target_cols` alone all others are concepts; with
            `concept_cols` alone targets are found by name. With both, further columns are not checked.
        reader_merge: how readers of one image are merged, empty cells omitted: `any` (1 if one of them is 1),
            `majority` (1 if more than half of them are 1, so a tie is 0), `soft` (the mean).
        group_col: the column of patients (or lesions, studies) where it is not called `patient_id`. With a
            `vocabulary` the file may lack it.
        vocabulary: the training table, or the names stored with a model. Its names and order then hold,
            `concept_cols` and `target_cols` are not used, and the file must have the same columns.

    Raises:
        InputError: anything wrong with the file, with its name, line, column and value.
    """
    if reader_merge not in READER_MERGES:
        raise InputError(f"reader_merge is {show(reader_merge)}; give one of {', '.join(READER_MERGES)}")
    known = (*RESERVED_COLUMNS, *DEFAULT_TARGETS)
    with CsvFile(path) as file:
        header = read_header(file.rows(), path, required=("image_id",), known=known)
        column_of = {name_key(name): number for number, name in enumerate(header)}
        group_key = _group_key(path, header, group_col, needed=vocabulary is None)
        chosen = {"concept_cols": concept_cols, "target_cols": target_cols}
        names = _label_names(path, header, vocabulary, group_col=group_col, **chosen)
        labels = (*names.concept_names, *names.target_names)
        columns = [column_of[name_key(name)] for name in labels]
        read = ReaderRows(
            path, labels, columns, [column_of.get(key) for key in ("image_id", "rad_id", group_key)]
        )
        for block in file.blocks():
            read.add(block)
    if not read.image_ids:
        raise InputError(f"{path}: no rows below the header; it needs one row for each image")
    value_NL, num_readers_N = read.merge(reader_merge)
    return LabelTable(
        path=str(path),
        image_ids=tuple(read.image_ids),
        concept_names=names.concept_names,
        target_names=names.target_names,
        concept_NK=value_NL[:, : len(names.concept_names)],
        target_NT=value_NL[:, len(names.concept_names) :],
        row_numbers=tuple(read.first_lines),
        patient_ids=tuple(read.patients) if group_key in column_of else None,
        num_readers_N=num_readers_N,
        ignored_names=names.ignored_names or (),
    )


def _label_names(
    path: str | os.PathLike[str],
    header: list[str],
    vocabulary: LabelTable | Vocabulary | None,
    *,
    concept_cols: Sequence[str] | None,
    target_cols: Sequence[str] | None,
    group_col: str | None,
) -> Vocabulary:
    """Return the concepts and targets of a header: chosen, or those of `vocabulary`."""
    if vocabulary is None:
        return choose_columns(
            path, header, concept_cols=concept_cols, target_cols=target_cols, group_col=group_col
        )
    if isinstance(vocabulary, LabelTable):
        return match_columns(path, header, vocabulary.vocabulary, source=vocabulary.path, group_col=group_col)
    source = "those the model was trained on"
    return match_columns(path, header, vocabulary, source=source, group_col=group_col)


def _group_key(
    path: str | os.PathLike[str], header: list[str], group_col: str | None, *, needed: bool
) -> str:
    """Return the key of the column of patients, which the header may lack where it is not needed."""
    if group_col is None:
        return "patient_id"
    keys = {name_key(name) for name in header}
    if needed and name_key(group_col) not in keys:
        columns = show_some([show(name) for name in header], limit=8)
        raise InputError(f"{path}: no column {show(group_col)} (--group_col); the file has {columns}")
    if name_key(group_col) in ("image_id", "rad_id"):
        raise InputError(f"--group_col {show(group_col)}: that is no column of patients")
    return name_key(group_col)


def drop_rare(table: LabelTable, minimum: int) -> tuple[LabelTable, tuple[str, ...]]:
    """Omit concepts with fewer than `minimum` positive images; targets always stay.

    Returns:
        The smaller table, and the names that were dropped (they count as omitted on purpose).

    Raises:
        InputError: no concept is left.
    """
    keep_K = count_positives(table.concept_NK) >= minimum
    dropped = tuple(name for name, keep in zip(table.concept_names, keep_K) if not keep)
    if len(dropped) == len(table.concept_names):
        raise InputError(
            f"{table.path}: every concept has fewer than {minimum} positive images; lower --drop_rare"
        )
    kept = tuple(name for name, keep in zip(table.concept_names, keep_K) if keep)
    smaller = dataclasses.replace(
        table,
        concept_names=kept,
        concept_NK=table.concept_NK[:, keep_K],
        ignored_names=(*table.ignored_names, *dropped),
    )
    return smaller, dropped


def count_positives(label_NL: np.ndarray) -> np.ndarray:
    """Return the number of positive images of each label, (L,) int64.

    Args:
        label_NL: (N, L) from 0 to 1, NaN where not annotated.
    """
    return np.count_nonzero(is_positive(label_NL), axis=0)


def check_positives(table: LabelTable) -> None:
    """Raise an InputError that names the concepts without a positive image, if there are any."""
    counts = count_positives(table.concept_NK)
    empty = [show(name) for name, count in zip(table.concept_names, counts) if not count]
    if empty:
        raise InputError(
            f"{table.path}: no positive image for {show_some(empty)}; add some, "
            "drop such concepts with --drop_rare 1, or choose with --concept_cols"
        )


def check_disjoint(train: LabelTable, test: LabelTable) -> None:
    """Raise an InputError that names the images in both tables, if there are any."""
    lines = dict(zip(map(image_key, train.image_ids), train.row_numbers))
    both = [
        f"{show(name)} (lines {lines[image_key(name)]} and {row})"
        for name, row in zip(test.image_ids, test.row_numbers)
        if image_key(name) in lines
    ]
    if both:
        raise InputError(
            f"{train.path} and {test.path} share {len(both)} image(s): {show_some(both)}; "
            "remove them from one of the files"
        )


def shared_patients(train: LabelTable, test: LabelTable) -> list[str]:
    """Return the patient ids in both tables, sorted: one patient in both makes test numbers too good.

    It is no error, because each file may number its patients from 1.
    """
    return sorted(({*(train.patient_ids or ())} & {*(test.patient_ids or ())}) - {""})
