"""Warnings on how images are shown: windows that do not fit, borders that are white in some images only."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csr.data.check.facts import Split
from csr.data.check.file_facts import BLACK_BORDER, WHITE_BORDER, border_greys
from csr.data.images.decode import decode_image
from csr.data.images.dicom_file import is_dicom
from csr.data.images.dicom_grey import BESIDE, CLIPPED, CLIPPING, UNUSABLE, Note
from csr.data.labels.names import show, show_some
from csr.runtime.thread_map import in_threads

LOOKED_AT, DECODED = 64, 32  # files of a split before training, evenly spaced, and DICOM files among them
FEW = 0.01  # share of the images: borders of fewer are no pattern
MEANINGS = {
    UNUSABLE: "a window that is none, and are shown from their darkest to their brightest pixel",
    BESIDE: "a window beside all of their pixels, and are shown from their darkest to their brightest pixel",
    CLIPPING: f"a window that clips more than {CLIPPED:.0%} of their pixels, and are shown so",
}


def display_warnings(split: Split) -> list[str]:
    """Return lines on the windows and the borders of the readable images of a split."""
    return [*_window_warnings(split), *_border_warnings(split)]


def _window_warnings(split: Split) -> list[str]:
    lines = []
    for kind, meaning in MEANINGS.items():
        found = [
            (f"{show(split.table.image_ids[row])} ({note.detail})", note.maker)
            for row, one in split.scanned.items()
            for note in one.notes
            if note.kind == kind
        ]
        if found:
            makers = Counter(maker for _, maker in found if maker)
            by = ", ".join(f"{maker!r} {count}" for maker, count in makers.most_common(3))
            by = f" (by manufacturer: {by})" if by else ""
            some = show_some([text for text, _ in found], limit=5)
            lines.append(f"{len(found)} {split.name} images have {meaning}{by}: {some}")
    return lines


def _border_warnings(split: Split) -> list[str]:
    greys = border_greys(split.thumbnails)
    white, black = int((greys >= WHITE_BORDER).sum()), int((greys <= BLACK_BORDER).sum())
    if not white or (2 * white < len(greys) and min(white, black) < FEW * len(greys)):
        return []
    rows = [row for row, grey in zip(split.scanned, greys, strict=True) if grey >= WHITE_BORDER]
    some = show_some([show(split.table.image_ids[row]) for row in rows], limit=5)
    return [
        f"the border is white in {white} and black in {black} of {len(greys)} {split.name} images: air may "
        f"be shown as white there, which a network can learn; white: {some}"
    ]


def window_notices(splits: dict[str, Sequence[Path]], *, workers: int) -> list[str]:
    """Return a line for each split whose DICOM files have windows that do not fit, judged by a few of them.

    Args:
        splits: image files by the name of the split.
        workers: threads that decode.

    Raises:
        InputError: one of the files cannot be read.
    """
    lines = []
    for name, paths in splits.items():
        looked_at = [path for path in _evenly(paths, LOOKED_AT) if is_dicom(path)]
        files = _evenly(looked_at, DECODED)
        with warnings.catch_warnings():  # pydicom's, on files that were read well
            warnings.simplefilter("ignore")
            of_files = list(in_threads(_notes_of, files, workers=workers))
        counts = Counter(note.kind for notes in of_files for note in notes)
        if counts:
            has = "; ".join(f"{counts[kind]} have {MEANINGS[kind]}" for kind in MEANINGS if counts[kind])
            lines.append(
                f"of {len(files)} DICOM files of the {name} images that were looked at, {has}: "
                "`csr data check` lists them"
            )
    return lines


def _notes_of(path: Path) -> tuple[Note, ...]:
    return decode_image(path).notes


def _evenly(paths: Sequence[Path], most: int) -> list[Path]:
    places = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int))
    return [paths[place] for place in places]
