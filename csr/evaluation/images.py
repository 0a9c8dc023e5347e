"""Images of a labelled table, opened for an evaluation."""

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
def image_folder(given: Path | None) -> Iterator[Path]:
    """Where this host keeps decoded images: the given folder, or a temporary one. Collective."""
    token = distributed.broadcast_object(secrets.token_hex(8))
    folder = given or Path(tempfile.gettempdir()) / f"csr-evaluate-{token}"
    try:
        if given is None:
            with distributed.errors_agreed():
                _make_private(folder)
        yield folder
    finally:
        if given is None and distributed.local_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _make_private(folder: Path) -> None:
    """The images are patients': nobody else may look into the temporary folder."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}: give a folder with --image_cache") from None


def open_images(paths: list[Path], table: LabelTable, folder: Path, *, size: int, workers: int) -> ImageStore:
    """Decode every image once; the ranks of a host share the work. Collective.

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
