"""The folder of an import: tables appear together at the end, images are linked or copied."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from csr.data.labels.summary import ORIGIN_FILE, ORIGIN_FORMAT
from csr.runtime.errors import InputError
from csr.runtime.files import replaced_path
from csr.runtime.output_paths import check_output_folder
from csr.runtime.sizes import gib_text
from csr.runtime.thread_map import mapped

TABLES = ("labels_train.csv", "labels_test.csv", "boxes_train.csv", "boxes_test.csv", "omitted.csv")
IMAGE_FOLDERS = ("train", "test", "images")
IMAGE_MODES = ("link", "copy", "none")
BOX_COLUMNS = ("class_name", "x_min", "y_min", "x_max", "y_max")
COPY_THREADS = 4


class Output:
    """A folder whose tables are written beside their final place until `finish` puts them there.

    Args:
        folder: OUT.
        raw: RAW, which OUT must not touch.
        overwrite: replace the tables and links of an earlier import.
        images: `link` makes one link to each image folder, `copy` copies the images that the tables name,
            `none` leaves them where they are.

    Raises:
        InputError: OUT is in use, is a part of RAW, or cannot be written.
    """

    def __init__(self, folder: Path, *, raw: Path, overwrite: bool, images: str) -> None:
        self.folder, self.images = folder, images
        self._staging = folder / f".import-{os.getpid()}"
        self._made = not folder.exists()
        self._links: set[str] = set()
        here, there = folder.resolve(), raw.resolve()
        if there in (here, *here.parents):
            raise InputError(f"{folder}: lies in {raw}; give an OUT outside of it: RAW is never written to")
        check_output_folder(folder, overwrite=overwrite, content="its tables", flag="")

    @property
    def scratch(self) -> Path:
        """Return a folder for temporary files, which is there until the end of the import."""
        return self._staging

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Enclose the writing of tables; an exception leaves OUT as it was."""
        try:
            self._staging.mkdir(parents=True)
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.folder}: cannot be written ({reason}); give another OUT") from None
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            if self._made and self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    @contextlib.contextmanager
    def table(self, name: str, columns: Sequence[str]) -> Iterator[Any]:
        """Open a table and yield its csv writer, which has written the header."""
        assert name in TABLES
        with open(self._staging / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            yield writer

    def place_images(self, name: str, source: Path, files: Iterable[str]) -> Path:
        """Make the images of a folder available and return the folder to name in `csr train`.

        Args:
            name: of the folder in OUT.
            source: the image folder in RAW.
            files: names below `source` that the tables use.
        """
        assert name in IMAGE_FOLDERS
        if self.images == "none":
            return source
        target = self.folder / name
        if self.images == "copy":
            if target.is_symlink():  # of an earlier import: writing through the link would write into RAW
                target.unlink()
            self._copy(source, target, sorted(set(files)))
            return target
        if target.is_dir() and not target.is_symlink():
            raise InputError(f"{target}: is a folder of copied images; remove it, or give --images copy")
        link = self._staging / "link"
        try:
            link.symlink_to(source.resolve(), target_is_directory=True)
        except OSError as error:
            raise InputError(
                f"{target}: a link cannot be made there ({error.strerror}); give --images copy or none"
            ) from None
        os.replace(link, target)
        self._links.add(name)
        return target

    def _copy(self, source: Path, target: Path, names: list[str]) -> None:
        wanted = [name for name in names if not _same(source / name, target / name)]
        size = sum((source / name).stat().st_size for name in wanted)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise InputError(
                f"{target}: the images take {gib_text(size)}, {gib_text(free)} are free; "
                "give --images link or none"
            )

        def copy(name: str) -> None:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with replaced_path(target / name) as beside:
                shutil.copy2(source / name, beside)

        title = f"Copying {target.name}"
        for _ in mapped(copy, wanted, workers=COPY_THREADS, total=len(wanted), title=title):
            pass

    def finish(self, origin: dict[str, str]) -> None:
        """Put the tables into their place, and beside them the origin of the data set."""
        text = json.dumps({"format": ORIGIN_FORMAT, **origin}, indent=2) + "\n"
        (self._staging / ORIGIN_FILE).write_text(text, encoding="utf-8")
        for name in (*TABLES, ORIGIN_FILE):
            if (self._staging / name).is_file():
                os.replace(self._staging / name, self.folder / name)
            else:  # of an earlier import
                (self.folder / name).unlink(missing_ok=True)
        for name in IMAGE_FOLDERS:
            if name not in self._links and (self.folder / name).is_symlink():
                (self.folder / name).unlink()


def _same(source: Path, target: Path) -> bool:
    """Return whether a file was copied before, so that an interrupted import resumes."""
    if not target.is_file() or target.is_symlink():
        return False
    there, here = source.stat(), target.stat()
    return (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns)
