"""`csr data check`: everything that is worth knowing of label tables and their images before training.

Letters: N images, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csr.data.check.facts import (
    Found,
    Split,
    box_facts,
    cooccurrence,
    copies,
    label_facts,
    labels_of,
    split_facts,
)
from csr.data.check.image_scan import MIN_CONTRAST, Scanned, scan
from csr.data.check.reader_agreement import agreement, read_reads
from csr.data.images.find import find_present
from csr.data.labels.names import show, show_some
from csr.data.labels.table import (
    check_disjoint,
    check_positives,
    count_positives,
    read_label_table,
    shared_patients,
)
from csr.data.labels.validation_split import split_validation
from csr.runtime.errors import InputError

VAL_FRACTION = 0.1  # the default of `csr train`


@dataclass(frozen=True)
class DataFiles:
    """What is checked, as `csr train` would be told."""

    csv: str
    folder: str
    test_csv: str | None = None
    test_folder: str | None = None
    boxes_csv: str | None = None
    concept_cols: Sequence[str] | None = None
    target_cols: Sequence[str] | None = None
    reader_merge: str = "any"


def check_data(files: DataFiles, *, rare: int, workers: int) -> Found:
    """Plain JSON of everything found; `problems` is empty if `csr train` can use the data.

    Args:
        files: the tables and folders.
        rare: labels with fewer positive images are warned of.
        workers: threads that decode.

    Raises:
        InputError: the table itself cannot be read.
    """
    problems: list[str] = []
    splits = _read_tables(files, problems)
    folder_of = {"train": files.folder, "test": files.test_folder}
    for split in splits:
        _look(split, str(folder_of[split.name]), workers, problems)
    warnings = _label_warnings(splits, rare, problems)
    copied = copies(splits)
    _judge_copies(copied, problems, warnings)
    _judge_splits(splits, problems, warnings)
    boxes = None
    if files.boxes_csv is not None:
        try:
            boxes = box_facts(files.boxes_csv, splits[0])
        except InputError as error:
            problems.append(str(error))
    reads = read_reads(splits[0].table)
    train = splits[0].table
    return {
        "format": "csr-data-check",
        "format_version": 1,
        "problems": problems,
        "warnings": warnings,
        "options": {"reader_merge": files.reader_merge, "rare": rare},
        "splits": {split.name: split_facts(split) for split in splits},
        "labels": label_facts(splits),
        "cooccurrence": cooccurrence(train),
        "agreement": None if reads is None else agreement(reads),
        **copied,
        "boxes": boxes,
    }


def _read_tables(files: DataFiles, problems: list[str]) -> list[Split]:
    """The tables; what is wrong with the test table is a problem, so that the rest is looked at all the same."""
    train = read_label_table(
        files.csv,
        concept_cols=files.concept_cols,
        target_cols=files.target_cols,
        reader_merge=files.reader_merge,
    )
    splits = [Split("train", train)]
    if files.test_csv is not None:
        try:
            test = read_label_table(files.test_csv, reader_merge=files.reader_merge, vocabulary=train)
            splits.append(Split("test", test))
        except InputError as error:
            problems.append(str(error))
    return splits


def _look(split: Split, folder: str, workers: int, problems: list[str]) -> None:
    """Find and decode every image of a split."""
    try:
        split.paths, split.missing = find_present(folder, split.table)
    except InputError as error:
        problems.append(str(error))
        return
    for row, one in zip(
        split.paths, scan([*split.paths.values()], workers=workers, title=f"{split.name} images"), strict=True
    ):
        if isinstance(one, Scanned):
            split.scanned[row] = one
        else:
            split.unreadable[row] = str(one)
    for what, rows in (("missing", split.missing), ("unreadable", split.unreadable)):
        if rows:
            some = show_some(
                [f"line {split.table.row_numbers[row]}: {told}" for row, told in rows.items()], limit=5
            )
            problems.append(f"{what} {split.name} images: {len(rows)}: {some}")


def _label_warnings(splits: list[Split], rare: int, problems: list[str]) -> list[str]:
    """Rare and constant labels, readers who leave cells empty; concepts without a positive are a problem."""
    warnings = []
    train = splits[0].table
    try:
        check_positives(train)
        split_validation(train, fraction=VAL_FRACTION, seed=0)
    except InputError as error:
        problems.append(str(error))
    for split in splits:
        seldom = []
        for names, label_NL in labels_of(split.table):
            for name, count, column_N in zip(names, count_positives(label_NL), label_NL.T, strict=True):
                annotated = int(np.count_nonzero(~np.isnan(column_N)))
                if not annotated:
                    warnings.append(f"{name}: no {split.name} image is annotated")
                elif count == annotated:
                    warnings.append(
                        f"{name}: every annotated {split.name} image has it: nothing to tell apart"
                    )
                elif count < rare:
                    seldom.append(f"{name} ({count})")
        if seldom:
            warnings.append(f"fewer than {rare} {split.name} images have {show_some(seldom)}")
    return warnings


def _judge_splits(splits: list[Split], problems: list[str], warnings: list[str]) -> None:
    """The same image in both tables is a problem, the same patient a warning, as in `csr train`."""
    for split in splits:
        blank = [row for row, one in split.scanned.items() if one.thumbnail_SS.std() < MIN_CONTRAST]
        if blank:
            some = show_some([show(split.table.image_ids[row]) for row in blank], limit=5)
            warnings.append(f"{split.name} images of one grey alone: {len(blank)}: {some}")
    if len(splits) < 2:
        return
    train, test = (split.table for split in splits)
    try:
        check_disjoint(train, test)
    except InputError as error:
        problems.append(str(error))
    shared = shared_patients(train, test)
    if shared:
        warnings.append(
            f"{len(shared)} patients are in both tables ({show_some([show(p) for p in shared], limit=5)}): if they "
            "are the same people, test numbers are too good"
        )


def _judge_copies(copied: Found, problems: list[str], warnings: list[str]) -> None:
    for kind, told in (("exact_duplicates", "the same bytes"), ("near_duplicates", "look the same")):
        leaks = [group for group in copied[kind] if group["leak"]]
        some = show_some([" = ".join(group["images"][:4]) for group in leaks], limit=5)
        if leaks and kind == "exact_duplicates":
            problems.append(f"training and test images with {told}: {len(leaks)}: {some}; remove one of each")
        elif leaks:
            warnings.append(f"training and test images that {told}: {len(leaks)}: {some}; look at them")
        rest = [group for group in copied[kind] if not group["leak"]]
        if rest:
            differ = sum(not group["labels_agree"] for group in rest)
            named = show_some([" = ".join(group["images"][:4]) for group in rest], limit=5)
            what = f"with {told}" if kind == "exact_duplicates" else f"that {told}"
            warnings.append(
                f"images of one split {what}: {len(rest)}, of them {differ} with different labels: {named}"
            )
