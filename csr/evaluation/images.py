"""Tables and images that a trained model is measured on, decoded once by the ranks of a host together."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import open_store
from csr.data.images.find import find_images
from csr.data.labels.boxes import BoxTable, read_boxes
from csr.data.labels.table import LabelTable, read_label_table, without
from csr.data.labels.vocabulary import Vocabulary
from csr.model.sharing.card import Card
from csr.model.sharing.preprocessing import Preprocessing
from csr.runtime import distributed
from csr.runtime.errors import InputError


@contextlib.contextmanager
def image_folder(kept: Path | None) -> Iterator[Path]:
    """Yield the folder of decoded images that the ranks of this host share. Collective.

    Args:
        kept: a folder that stays; None: a private temporary one, which is removed at the end.

    Raises:
        InputError: the temporary folder cannot be made.
    """
    token = distributed.broadcast_object(secrets.token_hex(8))
    folder = kept or Path(tempfile.gettempdir()) / f"csr-images-{token}"
    try:
        if kept is None:
            with distributed.errors_agreed():
                _make_private(folder)
        yield folder
    finally:
        if kept is None and distributed.local_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _make_private(folder: Path) -> None:
    """Make a folder that no other user can read: the images are patients'."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}: give a folder with --image_cache") from None


def read_tables(
    csv: str,
    card: Card,
    *,
    reader_merge: str,
    boxes_csv: str | None,
    group_col: str | None = None,
    left_out: Collection[str] = (),
) -> tuple[LabelTable, BoxTable | None]:
    """Read a label table with the model's columns, and boxes on its images.

    Args:
        csv: the labels.
        card: of the model, whose concepts and targets the columns are.
        reader_merge: how several readers of an image are merged.
        boxes_csv: boxes, or None.
        group_col: the column of patients where it is not called `patient_id`; the file may lack it.
        left_out: ids of images to omit, and their boxes with them.

    Raises:
        InputError: anything wrong with either table.
    """
    vocabulary = Vocabulary(card.concept_names, card.target_names)
    table = read_label_table(csv, reader_merge=reader_merge, group_col=group_col, vocabulary=vocabulary)
    table = without(table, left_out)
    return table, None if boxes_csv is None else read_boxes(boxes_csv, table=table, left_out=left_out)


def ignored_lines(boxes: BoxTable | None) -> list[str]:
    """Return a line for each class of boxes that is no concept."""
    ignored = {} if boxes is None else boxes.ignored
    return [
        f"Boxes of {name!r}, which is no concept, are not used: {count}" for name, count in ignored.items()
    ]


def open_images(
    table: LabelTable,
    boxes: BoxTable | None,
    folder: str,
    *,
    cache: Path | None,
    preprocessing: Preprocessing,
    workers: int,
    links_into: Sequence[str] = (),
) -> LabelledImages:
    """Decode every image of a table once; the ranks of a host share the work. Collective.

    Args:
        table: labels.
        boxes: on the images, or None.
        folder: the image files are below it.
        cache: from `image_folder`; None decodes images whenever they are needed.
        preprocessing: of the model, which says how images are stored.
        workers: threads that decode, per rank.
        links_into: folders outside of `folder` that links in it may lead into.

    Returns:
        The labelled images, uint8 (N, C, S, S) with S the stored size, and their boxes as seen in them.

    Raises:
        InputError: one for all missing or unreadable images, boxes beyond an image, or the cache cannot be
            written.
    """
    with distributed.errors_agreed():
        paths = find_images(folder, table, links_into=links_into)
    with distributed.errors_agreed():  # open_store passes its barriers on every rank, whatever happens
        store = open_store(
            paths,
            size=preprocessing.stored_size,
            cache_dir=cache,
            workers=workers,
            resize=preprocessing.resize,
            where=table.where,
            shard=(distributed.local_rank(), distributed.local_world_size()),
            barrier=distributed.barrier,
        )
    with distributed.errors_agreed():
        inside = None
        if boxes is not None:
            inside = boxes.check_inside(store.original_sizes_N2).in_square(store.frame_N4)
    return LabelledImages(store, table, boxes=inside)
