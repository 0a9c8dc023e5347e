"""Label tables with one row an image: files looked up in threads, what cannot be used listed or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from csr.data.importers.output import Output
from csr.data.importers.raw import BadImage, ImageFiles
from csr.data.importers.summary import SPLITS, Imported
from csr.data.labels.names import IMAGE_SUFFIXES, show, show_some
from csr.data.labels.vocabulary import AVERAGE_READERS
from csr.runtime.errors import InputError
from csr.runtime.thread_map import mapped

SOFT = "2/3"  # of a cell; a table holds 0 and 1: three rows, two of which say 1
PUBLISHED = "published"  # rad_id of an image without a soft cell: a labeler, or radiologists
ON_BAD_IMAGE = ("error", "omit")
_SHOWN = 10


class ImageRow(NamedTuple):
    """One image of a published table.

    Attributes:
        location: file and line, for messages.
        image: file below the image folder, `/` between folders, without its suffix.
        name: what the published table calls the image, without its suffix.
        patient: id, '' where unknown.
        cells: labels, 0, 1, '' (not annotated) or `SOFT`.
    """

    location: str
    image: str
    name: str
    patient: str
    cells: Sequence[str]


@dataclass(frozen=True)
class Handling:
    """What a user asked for on images.

    Attributes:
        omit: a text file with one image a line that is left out: its name in the published table, or its
            path below the image folder, with or without a suffix.
        on_bad_image: `error` refuses missing and unreadable images, `omit` leaves them out and lists them.
        workers: threads that look for the files.
    """

    omit: Path | None
    on_bad_image: str
    workers: int


class ImageTables:
    """Writer of labels_train.csv, labels_test.csv and, where images are left out, omitted.csv.

    Args:
        output: OUT, open.
        imported: gets notices and image folders.
        files: the images of both splits.
        labels: column names.
        handling: see `Handling`.
        check: called with the path of each image; returns what is wrong with it, or None.

    Attributes:
        names: the file of each image that was written, by `ImageRow.image`, of each split.
    """

    def __init__(
        self,
        output: Output,
        imported: Imported,
        files: ImageFiles,
        labels: Sequence[str],
        handling: Handling,
        *,
        check: Callable[[Path], str | None] = lambda path: None,
    ) -> None:
        self.output, self.imported, self.files = output, imported, files
        self.labels, self.handling, self.check = labels, handling, check
        self.names: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
        self._seen: dict[str, str] = {}
        self._listed = dict.fromkeys(_read_list(handling.omit), False) if handling.omit else {}
        self._omitted: list[tuple[str, str, str]] = []  # image, split, reason
        self._bad: list[str] = []

    def write(self, split: str, rows: Sequence[ImageRow]) -> None:
        """Write the labels of a split.

        Raises:
            InputError: an image with two rows; no image is left.
        """
        kept = [row for row in rows if not self._is_listed(row, split)]
        found = mapped(
            self._find, kept, workers=self.handling.workers, total=len(kept), title=f"Images, {split}"
        )
        is_soft = self.imported.reader_merge == "soft"
        columns = ("image_id", *(["rad_id"] if is_soft else []), "patient_id", *self.labels)
        with self.output.table(f"labels_{split}.csv", columns) as table:
            for row, name in zip(kept, found, strict=True):
                first = self._seen.setdefault(row.image, row.location)
                if first != row.location:
                    raise InputError(
                        f"{row.location}: image {show(row.image)} is already in {first}; download it again"
                    )
                if isinstance(name, BadImage):
                    self._bad.append(str(name))
                    self._omitted.append((row.image, split, str(name)))
                    continue
                self.names[split][row.image] = name
                if is_soft:
                    table.writerows([name, *reading] for reading in _readings(row))
                else:
                    table.writerow([name, row.patient, *row.cells])
        if rows and not self.names[split] and self.handling.on_bad_image == "error" and self._bad:
            self._refuse()
        if not self.names[split]:
            raise InputError(
                f"{self.files.folder}: no {split} image is left of {len(rows)} rows; look at the folder, "
                "the views and the list of images to leave out"
            )

    def finish(self) -> None:
        """Place the images, write omitted.csv and add notices.

        Raises:
            InputError: images cannot be used, and `on_bad_image` is `error`.
        """
        if self._bad and self.handling.on_bad_image == "error":
            self._refuse()
        if self._omitted:
            with self.output.table("omitted.csv", ("image_id", "split", "reason")) as table:
                table.writerows(self._omitted)
            listed = len(self._omitted) - len(self._bad)
            self.imported.notices.append(
                f"{len(self._omitted):,} images are left out ({listed:,} by --omit, {len(self._bad):,} "
                f"missing or unreadable): listed in {self.output.folder / 'omitted.csv'}"
            )
        unknown = [name for name, used in self._listed.items() if not used]
        if unknown:
            self.imported.notices.append(
                f"{len(unknown):,} lines of {self.handling.omit} name no image that would be written "
                f"(the first: {show(unknown[0])})"
            )
        used = [name for split in SPLITS for name in self.names[split].values()]
        target = self.output.place_images("images", self.files.folder, used)
        self.imported.folders = dict.fromkeys(SPLITS, target)

    def _find(self, row: ImageRow) -> str | BadImage:
        try:
            name = self.files.find(row.image, location=row.location)
        except BadImage as error:
            return error
        problem = self.check(self.files.folder / name)
        return name if problem is None else BadImage(f"{row.location}: {self.files.folder / name} {problem}")

    def _is_listed(self, row: ImageRow, split: str) -> bool:
        for name in (row.name, row.image):
            if name in self._listed:
                self._listed[name] = True
                self._omitted.append((row.image, split, f"in {self.handling.omit}"))
                return True
        return False

    def _refuse(self) -> None:
        raise InputError(
            f"{self.files.folder}: {len(self._bad):,} image(s) cannot be used: "
            f"{show_some(self._bad, limit=_SHOWN)}; complete the folder, or give --on_bad_image omit to "
            "leave them out"
        )


def _readings(row: ImageRow) -> Iterator[list[str]]:
    """Yield rad_id, patient and cells of an image: the rows of an average where a cell is soft, else one."""
    parts = zip(AVERAGE_READERS, ("1", "1", "0"), strict=True) if SOFT in row.cells else [(PUBLISHED, "")]
    for reader, soft in parts:
        yield [reader, row.patient, *(soft if cell == SOFT else cell for cell in row.cells)]


def _read_list(path: Path) -> list[str]:
    """Return the images that a text file names, one a line, without suffixes."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"--omit {path}: cannot be read ({reason}); give a text file") from None
    names = [image_stem(line) for line in lines if line.strip()]
    if not names:
        raise InputError(f"--omit {path}: names no image; write one a line, or leave --omit out")
    return names


def image_stem(name: str) -> str:
    """Return the name of an image without `./` in front and without the suffix of an image file."""
    text = name.strip().removeprefix("./")
    suffix = next((s for s in IMAGE_SUFFIXES if text.lower().endswith(s)), "")
    return text[: len(text) - len(suffix)]
