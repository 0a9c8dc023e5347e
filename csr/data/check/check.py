"""The check of label tables and their images before training (`csr data check`): facts, problems, warnings.

Letters: N images, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csr.data.check.box_facts import box_facts, box_warnings
from csr.data.check.columns import column_roles, empty_cells, group_facts, group_warnings, no_group_warnings
from csr.data.check.display import display_warnings
from csr.data.check.examples import examples
from csr.data.check.facts import Found, Split, copies, label_facts, labels_of, split_facts
from csr.data.check.file_facts import file_warnings, grey_facts, link_facts
from csr.data.check.image_scan import Scanned, scan
from csr.data.check.label_pairs import cooccurrence, pair_counts, twin_warnings, twins
from csr.data.check.near_copies import has_contrast
from csr.data.check.reader_agreement import agreement, average_warnings, read_reads
from csr.data.images.find import find_present
from csr.data.labels.names import show, show_some
from csr.data.labels.notices import table_notices
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
WIDEST_OF_FEWER_BITS = 14  # of detectors; a 16-bit picture of that range is nearly black


@dataclass(frozen=True)
class DataFiles:
    """Tables, folders and columns to check, named as the flags of `csr train`."""

    csv: str
    folder: str
    test_csv: str | None = None
    test_folder: str | None = None
    boxes_csv: str | None = None
    concept_cols: Sequence[str] | None = None
    target_cols: Sequence[str] | None = None
    reader_merge: str = "any"
    group_col: str | None = None
    links_into: Sequence[str] = ()


def check_data(files: DataFiles, *, rare: int, workers: int) -> Found:
    """Return all facts as plain JSON; `problems` is empty if `csr train` can use the data.

    Args:
        files: the tables and folders.
        rare: labels with fewer positive images get a warning.
        workers: threads that decode.

    Raises:
        InputError: the table itself cannot be read.
    """
    problems: list[str] = []
    splits = _read_tables(files, problems)
    folder_of = {"train": files.folder, "test": files.test_folder}
    for split in splits:
        _scan_images(split, str(folder_of[split.name]), files.links_into, workers, problems)
    warnings = _label_warnings(splits, rare, problems)
    copied = copies(splits)
    _judge_copies(copied, problems, warnings)
    _judge_splits(splits, problems, warnings)
    boxes = None
    if files.boxes_csv is not None:
        try:
            boxes = box_facts(files.boxes_csv, splits[0])
            warnings += box_warnings(boxes)
        except InputError as error:
            problems.append(str(error))
    train = splits[0].table
    reads = {split.name: read_reads(split.table) for split in splits}
    averages = {name: 0 if one is None else one.averages for name, one in reads.items()}
    warnings += average_warnings(averages, files.reader_merge)
    both_LL, either_LL = pair_counts(train)
    alike = twins(train, both_LL, either_LL)
    warnings += twin_warnings(alike)
    facts = {split.name: {**_facts_of(split), "averages": averages[split.name]} for split in splits}
    for name, one in facts.items():
        warnings += group_warnings(name, one["groups"], one["images"])
    warnings += no_group_warnings(facts)
    warnings += file_warnings(splits, {name: one["links"] for name, one in facts.items()})
    return {
        "format": "csr-data-check",
        "format_version": 1,
        "problems": problems,
        "warnings": warnings,
        "options": {"reader_merge": files.reader_merge, "rare": rare},
        "columns": column_roles(train, group_col=files.group_col),
        "splits": facts,
        "labels": label_facts(splits),
        "examples": examples(splits[0]),
        "cooccurrence": cooccurrence(train, both_LL),
        "twins": alike,
        "agreement": None if reads["train"] is None else agreement(reads["train"]),
        **copied,
        "boxes": boxes,
    }


def _facts_of(split: Split) -> Found:
    """Return everything that is counted in one split."""
    return {
        **split_facts(split),
        "cells": empty_cells(split.table),
        "groups": group_facts(split.table),
        "greys": grey_facts(split),
        "links": link_facts([*split.paths.values()]),
    }


def _read_tables(files: DataFiles, problems: list[str]) -> list[Split]:
    """Return the splits; an error of the test table becomes a problem, so that the rest is checked too."""
    train = read_label_table(
        files.csv,
        concept_cols=files.concept_cols,
        target_cols=files.target_cols,
        reader_merge=files.reader_merge,
        group_col=files.group_col,
    )
    splits = [Split("train", train)]
    if files.test_csv is not None:
        try:
            test = read_label_table(
                files.test_csv, reader_merge=files.reader_merge, group_col=files.group_col, vocabulary=train
            )
            splits.append(Split("test", test))
        except InputError as error:
            problems.append(str(error))
    return splits


def _scan_images(
    split: Split, folder: str, links_into: Sequence[str], workers: int, problems: list[str]
) -> None:
    """Find and decode every image of a split; add what is missing or unreadable to its problems."""
    try:
        split.paths, split.missing = find_present(folder, split.table, links_into=links_into)
    except InputError as error:
        problems.append(str(error))
        return
    results = scan([*split.paths.values()], workers=workers, title=f"{split.name} images")
    for row, one in zip(split.paths, results, strict=True):
        if isinstance(one, Scanned):
            split.scanned[row] = one
        else:
            split.unreadable[row] = str(one)
    for kind, reasons in (("missing", split.missing), ("unreadable", split.unreadable)):
        if reasons:
            lines = [f"line {split.table.row_numbers[row]}: {reason}" for row, reason in reasons.items()]
            problems.append(f"{kind} {split.name} images: {len(lines)}: {show_some(lines, limit=5)}")


def _label_warnings(splits: list[Split], rare: int, problems: list[str]) -> list[str]:
    """Return warnings of rare and constant labels; concepts without a positive image are a problem."""
    warnings = []
    train = splits[0].table
    try:
        check_positives(train)
        split_validation(train, fraction=VAL_FRACTION, seed=0)
    except InputError as error:
        problems.append(str(error))
    warnings += table_notices(train)
    for split in splits:
        seldom = []
        for names, label_NL in labels_of(split.table):
            for name, count, column_N in zip(names, count_positives(label_NL), label_NL.T, strict=True):
                annotated = int(np.count_nonzero(~np.isnan(column_N)))
                if not annotated:
                    warnings.append(f"{name}: no {split.name} image is annotated")
                elif count == annotated:
                    warnings.append(f"{name}: every annotated {split.name} image has it: nothing to learn")
                elif count < rare:
                    seldom.append(f"{name} ({count})")
        if seldom:
            warnings.append(f"fewer than {rare} {split.name} images have {show_some(seldom)}")
    return warnings


def _judge_splits(splits: list[Split], problems: list[str], warnings: list[str]) -> None:
    """Add images without contrast, and images (problems) and patients (warnings) that are in both tables."""
    for split in splits:
        has_some = has_contrast(split.thumbnails).tolist()
        blank = [row for row, some in zip(split.scanned, has_some, strict=True) if not some]
        if blank:
            some = show_some([show(split.table.image_ids[row]) for row in blank], limit=5)
            warnings.append(f"{split.name} images of one grey alone: {len(blank)}: {some}")
        warnings += [*_narrow_depth(split), *display_warnings(split)]
    if len(splits) < 2:
        return
    train, test = (split.table for split in splits)
    try:
        check_disjoint(train, test)
    except InputError as error:
        problems.append(str(error))
    shared = shared_patients(train, test)
    if shared:
        some = show_some([show(patient) for patient in shared], limit=5)
        warnings.append(
            f"{len(shared)} patients are in both tables ({some}): if they are the same people, "
            "test numbers are too good"
        )


def _narrow_depth(split: Split) -> list[str]:
    """Return a warning of 16-bit pictures that hold 12-bit values, if most of a split's do."""
    used = [one.bits_used for one in split.scanned.values() if one.bits_used is not None]
    narrow = [bits for bits in used if 0 < bits <= WIDEST_OF_FEWER_BITS]  # black ones are listed as blank
    if not narrow or 2 * len(narrow) < len(used):
        return []
    bits = max(narrow)
    return [
        f"{len(narrow)} {split.name} images of 16 bits use values up to {2**bits - 1} only ({bits} bits): "
        f"stored so, they are nearly black; scale them by {2 ** (16 - bits)} or export DICOM"
    ]


def _judge_copies(copied: Found, problems: list[str], warnings: list[str]) -> None:
    """Add copies in both splits (of the same bytes: a problem) and copies within a split (a warning)."""
    for kind, likeness in (
        ("exact_duplicates", "with the same bytes"),
        ("near_duplicates", "that look the same"),
    ):
        leaks = [group for group in copied[kind] if group["leak"]]
        some = show_some([" = ".join(group["images"][:4]) for group in leaks], limit=5)
        if leaks and kind == "exact_duplicates":
            problems.append(f"training and test images {likeness}: {len(leaks)}: {some}; remove one of each")
        elif leaks:
            warnings.append(f"training and test images {likeness}: {len(leaks)}: {some}; look at them")
        rest = [group for group in copied[kind] if not group["leak"]]
        if rest:
            differ = sum(not group["labels_agree"] for group in rest)
            named = show_some([" = ".join(group["images"][:4]) for group in rest], limit=5)
            warnings.append(
                f"images of one split {likeness}: {len(rest)}, of them {differ} with different labels: "
                f"{named}"
            )
