"""What a run is given: label tables, image files, decoded images; all of it checked before training.

Letters: N images, K concepts, R boxes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from csr.config.options import TrainConfig
from csr.data.image_cache.store import ImageStore, check_images, open_store
from csr.data.images.find import find_images
from csr.data.labels import table as tables
from csr.data.labels.boxes import BoxTable, read_boxes
from csr.data.labels.names import show
from csr.data.labels.positive import is_positive
from csr.data.labels.table import LabelTable
from csr.data.labels.validation_split import split_validation
from csr.data.transforms import stored_size
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.runtime.fingerprint import file_sizes, hash_of

Report = Callable[[str], None]
Progress = Callable[[int, int], None]
LeftOut = Mapping[str, Collection[str]]  # "train" and "test" -> image ids
CHECKED_AT_ONCE = 2000
NOTHING: LeftOut = {"train": (), "test": ()}


@dataclass(frozen=True)
class Tables:
    """The label tables of a run, checked against each other."""

    train: LabelTable
    test: LabelTable
    train_paths: list[Path]
    test_paths: list[Path]
    train_indices: np.ndarray
    val_indices: np.ndarray
    boxes: BoxTable | None

    def fingerprint(self) -> str:
        """A hash of labels, split, boxes, and the names and sizes of the image files."""
        tables = [(t.image_ids, t.concept_names, t.target_names) for t in (self.train, self.test)]
        arrays = [a for t in (self.train, self.test) for a in (t.concept_NK, t.target_NT)]
        boxes = () if self.boxes is None else (self.boxes.image_R, self.boxes.class_R, self.boxes.pixel_R4)
        sizes = file_sizes([*self.train_paths, *self.test_paths])
        return hash_of(tables, *arrays, self.train_indices, self.val_indices, *boxes, sizes)


def read_labels(
    config: TrainConfig, report: Report, *, left_out: LeftOut = NOTHING
) -> tuple[LabelTable, LabelTable]:
    """Read and check the label tables of training and test.

    Args:
        config: of the run.
        report: tells the user.
        left_out: images that do not take part.

    Raises:
        InputError: the first thing wrong with them.
    """
    data = config.data
    _check_there("train_csv", data.train_csv)
    _check_there("test_csv", data.test_csv)
    train = tables.read_label_table(
        data.train_csv,
        concept_cols=data.concept_cols,
        target_cols=data.target_cols,
        reader_merge=data.reader_merge,
    )
    train = tables.without(train, left_out["train"])
    if data.drop_rare:
        train, dropped = tables.drop_rare(train, data.drop_rare)
        if dropped:
            report(f"Dropped concepts with fewer than {data.drop_rare} positive images: {', '.join(dropped)}")
    tables.check_positives(train)
    test = tables.read_label_table(
        data.test_csv,
        concept_cols=data.concept_cols,
        target_cols=data.target_cols,
        reader_merge=data.reader_merge,
        vocabulary=train,
    )
    test = tables.without(test, left_out["test"])
    tables.check_disjoint(train, test)
    return train, test


def _check_there(flag: str, path: str) -> None:
    """A run without flags reads files that somebody may never have heard of: say which flag names them."""
    if not os.path.exists(path):
        raise InputError(
            f"--{flag} {show(path, limit=400)}: cannot be read (no such file); give the path of a CSV file"
        )


def build_tables(
    config: TrainConfig, report: Report, progress: Progress | None = None, *, left_out: LeftOut = NOTHING
) -> Tables:
    """Read and check the CSVs and find every image; nothing is decoded yet.

    Args:
        config: of the run.
        report: tells the user.
        progress: called as `progress(done, of)` now and then; may raise to leave early.
        left_out: images that do not take part.

    Raises:
        InputError: the first thing wrong with the tables, or all missing images (up to 20 named).
    """
    data = config.data
    train, test = read_labels(config, report, left_out=left_out)
    shared = tables.shared_patients(train, test)
    if shared:
        report(
            f"Notice: {len(shared)} patient_id(s) are in both {train.path} and {test.path}: if they are the same "
            "people, test numbers are too good"
        )
    counts_T = tables.count_positives(train.target_NT)
    unseen = [name for name, count in zip(train.target_names, counts_T, strict=True) if not count]
    if unseen:
        report(f"Notice: no positive training image for {', '.join(unseen)}: such targets cannot be learned")
    train_paths, test_paths = find_both(config, train, test, progress)
    boxes = None
    if data.boxes_csv is not None:
        boxes = read_boxes(data.boxes_csv, table=train, left_out=left_out["train"])
        for name, number in boxes.ignored.items():
            report(f"Boxes of {name!r}, which is no concept, are not used: {number}")
        present_R = is_positive(train.concept_NK[boxes.image_R, boxes.class_R])
        report(
            f"Boxes: {present_R.sum()} on concepts that are present; {(~present_R).sum()} on others are not used"
        )
    train_indices, val_indices = split_validation(train, fraction=data.val_fraction, seed=config.engine.seed)
    return Tables(train, test, train_paths, test_paths, train_indices, val_indices, boxes)


def find_both(
    config: TrainConfig, train: LabelTable, test: LabelTable, progress: Progress | None = None
) -> tuple[list[Path], list[Path]]:
    """The files of the training and the test images.

    Raises:
        InputError: one for both folders. Of up to `CHECKED_AT_ONCE` files that are there it also tells which
            cannot be read, so that one look is enough (of more images the unreadable ones come next time).
    """
    check = partial(unreadable, workers=config.data.workers, progress=progress)
    found, problems = [], []
    for folder, table in ((config.data.train_dir, train), (config.data.test_dir, test)):
        try:
            found.append(find_images(folder, table, check=check))
        except InputError as error:
            problems.append(str(error))
    if problems:
        problems += [problem for paths in found for problem in check(paths)]
        raise unusable_images(problems, config)
    return found[0], found[1]


def unreadable(paths: list[Path], workers: int, progress: Progress | None = None) -> list[str]:
    """What check_images says of a few files (rank 0 looks for all ranks)."""
    if not distributed.is_main() or not 0 < len(paths) <= CHECKED_AT_ONCE:
        return []
    try:
        check_images(paths, workers=workers, progress=progress)
    except InputError as error:
        return [str(error)]
    return []


def image_cache(config: TrainConfig) -> Path | None:
    """The folder of decoded images, None where they are not kept."""
    chosen = config.data.image_cache
    if chosen == "off":
        return None
    return Path(config.run.output_dir) / ".cache" / "images" if chosen == "auto" else Path(chosen)


def build_stores(
    config: TrainConfig,
    found: Tables,
    progress: Progress | None = None,
    *,
    opened_before: Sequence[ImageStore] = (),
) -> tuple[ImageStore, ImageStore]:
    """Decode every image once (training, test), which also finds the unreadable ones. Collective.

    Args:
        config, found: of the run.
        progress: see `build_tables`.
        opened_before: stores that this rank has; one of the very images is taken.
    """
    opened, problems = [], []
    for table, paths in ((found.train, found.train_paths), (found.test, found.test_paths)):
        there = next((store for store in opened_before if store.paths == tuple(paths)), None)
        try:
            open_one = partial(
                open_store,
                paths,
                size=stored_size(config.data.image_size),
                cache_dir=image_cache(config),
                workers=config.data.workers,
                where=table.where,
                progress=progress,
            )
            opened.append(_first_on_each_host(open_one, there))
        except InputError as error:  # of both folders, together
            problems.append(str(error))
    if problems:
        raise unusable_images(problems, config)
    return opened[0], opened[1]


def unusable_images(problems: list[str], config: TrainConfig) -> InputError:
    """One error for all images that are missing or unreadable, with the flag that leaves a few of them out."""
    said = "; ".join(problems)
    if config.data.on_bad_image == "quarantine" or "wrong folder?" in said:
        return InputError(said)
    return InputError(f"{said} (or leave up to 1 % of them out: --on_bad_image quarantine)")


def _first_on_each_host(open_one: Callable[[], ImageStore], there: ImageStore | None) -> ImageStore:
    """Local rank 0 decodes, unless its store is there; the host's other ranks open what it made."""
    store = there
    with distributed.errors_agreed():
        is_first = distributed.local_rank() == 0 and store is None
        store = distributed.in_step(lambda: open_one() if is_first else store)
    with distributed.errors_agreed():
        store = store or open_one()
    assert store is not None
    return store
