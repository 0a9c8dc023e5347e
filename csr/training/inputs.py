"""Inputs of a run: label tables, image files, decoded images; all of it checked before training.

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
from csr.data.check.brightness import brightness_notices, sample
from csr.data.check.display import window_notices
from csr.data.image_cache.ahead import DecodingAhead
from csr.data.image_cache.store import ImageStore, check_images, open_store
from csr.data.images.find import find_images
from csr.data.images.links import LINKS_OUT
from csr.data.labels import table as label_table
from csr.data.labels.boxes import BoxTable, read_boxes
from csr.data.labels.names import show, show_some
from csr.data.labels.notices import constant_targets, table_notices
from csr.data.labels.positive import is_positive
from csr.data.labels.table import LabelTable
from csr.data.training_split import split_training
from csr.data.transforms import stored_size
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.runtime.fingerprint import file_sizes, hash_of

Report = Callable[[str], None]
Progress = Callable[[int, int], None]
LeftOut = Mapping[str, Collection[str]]  # "train" and "test" -> image ids
CHECKED_AT_ONCE = 2000
_OF_ALL = ("none of the", LINKS_OUT)  # of an error of the folder: no quarantine mends it
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
        """Return a hash of labels, split, boxes, and the names and sizes of the image files."""
        tables = [(t.image_ids, t.concept_names, t.target_names) for t in (self.train, self.test)]
        arrays = [a for t in (self.train, self.test) for a in (t.concept_NK, t.target_NT)]
        boxes = () if self.boxes is None else (self.boxes.image_R, self.boxes.class_R, self.boxes.pixel_R4)
        sizes = file_sizes([*self.train_paths, *self.test_paths])
        return hash_of(tables, *arrays, self.train_indices, self.val_indices, *boxes, sizes)

    def training_fingerprint(self) -> str:
        """Return a hash of ids, labels, boxes and split of the training images, whatever the test."""
        names = (self.train.image_ids, self.train.concept_names, self.train.target_names)
        arrays = (self.train.concept_NK, self.train.target_NT, self.train_indices, self.val_indices)
        boxes = () if self.boxes is None else (self.boxes.image_R, self.boxes.class_R, self.boxes.pixel_R4)
        return hash_of(names, *arrays, *boxes)


def read_labels(
    config: TrainConfig, report: Report, *, left_out: LeftOut = NOTHING
) -> tuple[LabelTable, LabelTable]:
    """Read and check the label tables of training and test.

    Args:
        config: of the run.
        report: prints a line.
        left_out: images that are omitted.

    Raises:
        InputError: the first thing wrong with them.
    """
    data = config.data
    _check_there("train_csv", data.train_csv)
    _check_there("test_csv", data.test_csv)
    train = label_table.read_label_table(
        data.train_csv,
        concept_cols=data.concept_cols,
        target_cols=data.target_cols,
        reader_merge=data.reader_merge,
        group_col=data.group_col,
    )
    train = label_table.without(train, left_out["train"])
    if data.drop_rare:
        train, dropped = label_table.drop_rare(train, data.drop_rare)
        if dropped:
            report(f"Dropped concepts with fewer than {data.drop_rare} positives: {show_some(list(dropped))}")
    label_table.check_positives(train)
    test = label_table.read_label_table(
        data.test_csv,
        concept_cols=data.concept_cols,
        target_cols=data.target_cols,
        reader_merge=data.reader_merge,
        group_col=data.group_col,
        vocabulary=train,
    )
    test = label_table.without(test, left_out["test"])
    label_table.check_disjoint(train, test)
    return train, test


def _check_there(flag: str, path: str) -> None:
    """Raise InputError with the flag: a run without flags reads files whose names its user may not know."""
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
        report: prints a line.
        progress: called as `progress(done, of)` now and then; may raise to leave early.
        left_out: images that are omitted.

    Raises:
        InputError: the first thing wrong with the tables, or all missing images (up to 20 named).
    """
    data = config.data
    train, test = read_labels(config, report, left_out=left_out)
    shared = label_table.shared_patients(train, test)
    if shared:
        report(
            f"Notice: {len(shared)} patient_id(s) are in both {train.path} and {test.path}: if they are the "
            "same people, test numbers are too good"
        )
    counts_T = label_table.count_positives(train.target_NT)
    unseen = [name for name, count in zip(train.target_names, counts_T, strict=True) if not count]
    if unseen:
        report(f"Notice: no positive training image for {show_some(unseen)}: such targets cannot be learned")
    for name in constant_targets(train):
        report(f"Notice: every annotated training image has {show(name)}: nothing to learn")
    for line in table_notices(train, all_negatives=config.method.all_negatives):
        report(f"Notice: {train.path}: {line}")
    train_paths, test_paths = find_both(config, train, test, progress)
    boxes = None
    if data.boxes_csv is not None:
        boxes = read_boxes(data.boxes_csv, table=train, left_out=left_out["train"])
        for name, number in boxes.ignored.items():
            report(f"Boxes of {name!r}, which is no concept, are not used: {number}")
        present_R = is_positive(train.concept_NK[boxes.image_R, boxes.class_R])
        report(
            f"Boxes: {present_R.sum()} on concepts that are present; {(~present_R).sum()} on others are not "
            "used"
        )
    train_indices, val_indices = split_training(
        train,
        fraction=data.val_fraction,
        seed=config.engine.seed,
        folds=data.folds,
        fold=data.fold,
        num_images=data.num_images,
    )
    return Tables(train, test, train_paths, test_paths, train_indices, val_indices, boxes)


def find_both(
    config: TrainConfig, train: LabelTable, test: LabelTable, progress: Progress | None = None
) -> tuple[list[Path], list[Path]]:
    """Return the files of the training and the test images.

    Raises:
        InputError: one for both folders. Of up to `CHECKED_AT_ONCE` files that exist it also names those that
            cannot be read, so that one run reports all (of more images the unreadable ones follow later).
    """
    check = partial(unreadable, workers=config.data.workers, progress=progress)
    paths, problems = [], []
    for folder, table in ((config.data.train_dir, train), (config.data.test_dir, test)):
        try:
            paths.append(find_images(folder, table, check=check, links_into=config.data.links_into or ()))
        except InputError as error:
            problems.append(str(error))
    if problems:
        problems += [problem for files in paths for problem in check(files)]
        raise unusable_images(problems, config)
    return paths[0], paths[1]


def unreadable(paths: list[Path], workers: int, progress: Progress | None = None) -> list[str]:
    """Return the errors of `check_images` on a few files (rank 0 reads for all ranks)."""
    if not distributed.is_main() or not 0 < len(paths) <= CHECKED_AT_ONCE:
        return []
    try:
        check_images(paths, workers=workers, progress=progress)
    except InputError as error:
        return [str(error)]
    return []


def image_cache(config: TrainConfig) -> Path | None:
    """Return the folder of decoded images; None where they are not kept."""
    chosen = config.data.image_cache
    if chosen == "off":
        return None
    return Path(config.run.output_dir) / ".cache" / "images" if chosen == "auto" else Path(chosen)


def decoding_ahead(config: TrainConfig, tables: Tables) -> DecodingAhead:
    """Let a process decode the images that `build_stores` would, on the first rank of each host."""
    decodes = distributed.local_rank() == 0 and config.data.on_bad_image != "quarantine"
    return DecodingAhead(
        (tables.train_paths, tables.test_paths) if decodes else (),
        size=stored_size(config.data.image_size),
        cache_dir=image_cache(config),
        workers=config.data.workers,
        resize=config.data.resize,
    )


def build_stores(
    config: TrainConfig,
    tables: Tables,
    progress: Progress | None = None,
    *,
    ahead: DecodingAhead | None = None,
    opened_before: Sequence[ImageStore] = (),
) -> tuple[ImageStore, ImageStore]:
    """Decode every image once (training, test), which also finds the unreadable ones. Collective.

    Args:
        config, tables: of the run.
        progress: see `build_tables`.
        ahead: of `decoding_ahead`; its process is waited for.
        opened_before: stores that this rank has open; one of the same images is used again.

    Returns:
        The stores of the training and the test images.
    """
    opened, problems = [], []
    if ahead is not None:
        with distributed.errors_agreed():
            distributed.in_step(lambda: ahead.finish(progress))
    for table, paths in ((tables.train, tables.train_paths), (tables.test, tables.test_paths)):
        there = next((store for store in opened_before if store.paths == tuple(paths)), None)
        try:
            open_one = partial(
                open_store,
                paths,
                size=stored_size(config.data.image_size),
                cache_dir=image_cache(config),
                workers=config.data.workers,
                resize=config.data.resize,
                where=table.where,
                progress=progress,
            )
            opened.append(_first_on_each_host(open_one, there))
        except InputError as error:  # of both folders, together
            problems.append(str(error))
    if problems:
        raise unusable_images(problems, config)
    return opened[0], opened[1]


def notices_on(train_store: ImageStore, test_store: ImageStore, *, workers: int) -> list[str]:
    """Return notices on the brightness and the windows of the images of a run; `workers` threads decode."""
    stores = {"training": train_store, "test": test_store}
    lines = brightness_notices([sample(name, store) for name, store in stores.items()])
    return lines + window_notices({name: store.paths for name, store in stores.items()}, workers=workers)


def unusable_images(problems: list[str], config: TrainConfig) -> InputError:
    """Return one error for all missing or unreadable images, with the flag that omits a few of them."""
    text = "; ".join(problems)
    if config.data.on_bad_image == "quarantine" or any(words in text for words in _OF_ALL):
        return InputError(text)
    return InputError(f"{text} (or leave up to 1 % of them out: --on_bad_image quarantine)")


def _first_on_each_host(open_one: Callable[[], ImageStore], there: ImageStore | None) -> ImageStore:
    """Decode on local rank 0, unless its store is open; the host's other ranks open the same files."""
    store = there
    with distributed.errors_agreed():
        is_first = distributed.local_rank() == 0 and store is None
        store = distributed.in_step(lambda: open_one() if is_first else store)
    with distributed.errors_agreed():
        store = store or open_one()
    assert store is not None
    return store
