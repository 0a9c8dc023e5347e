"""Images of a label table, decoded once for an evaluation that may have several ranks on a host."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from csr.data.image_cache.store import ImageStore, open_store
from csr.data.labels.table import LabelTable
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
    folder = kept or Path(tempfile.gettempdir()) / f"csr-evaluate-{token}"
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


def open_images(paths: list[Path], table: LabelTable, folder: Path, *, size: int, workers: int) -> ImageStore:
    """Decode every image once; the ranks of a host share the work. Collective.

    Args:
        paths: files of the images, in the order of the table.
        table: their labels.
        folder: from `image_folder`.
        size: side that images are stored at, pixels.
        workers: threads that decode, per rank.

    Returns:
        The images, uint8 (N, C, size, size).

    Raises:
        InputError: one for all unreadable images, or the folder cannot be written.
    """
    with distributed.errors_agreed():  # open_store passes its barriers on every rank, whatever happens
        store = open_store(
            paths,
            size=size,
            cache_dir=folder,
            workers=workers,
            where=table.where,
            shard=(distributed.local_rank(), distributed.local_world_size()),
            barrier=distributed.barrier,
        )
    return store
