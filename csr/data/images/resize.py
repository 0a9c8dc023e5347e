"""Images resized to one size, many at a time.

Letters: N images, C channels, S side of the square.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csr.data.images.decode import decode_image
from csr.data.images.dicom_grey import Note
from csr.data.images.square import SQUASH, WHOLE, Frame, frame_of, to_square
from csr.data.labels.names import show_some
from csr.runtime.errors import InputError
from csr.runtime.thread_map import in_threads


@dataclass(frozen=True, eq=False)
class StoredImage:
    """One image as it is stored.

    Attributes:
        pixels_CSS: uint8, one channel if the image has no colour.
        height, width: of the original as displayed, in pixels.
        notes: on the window of a DICOM file.
        frame: the stored square in fractions of the original, see `csr.data.images.square`.
    """

    pixels_CSS: np.ndarray
    height: int
    width: int
    notes: tuple[Note, ...] = ()
    frame: Frame = WHOLE


def resize_file(path: Path, size: int, *, resize: str = SQUASH) -> StoredImage:
    """Decode an image and resize it to size x size pixels: bilinear, antialiased.

    Args:
        path: the image.
        size: S, pixels.
        resize: how it becomes square, see `csr.data.images.square`; a model's is
            `model.card.preprocessing.resize`.

    Raises:
        InputError: see `decode_image`.
    """
    # Twice the size: details that a reduced JPEG lacks are finer than those that survive the resize.
    image = decode_image(path, min_size=2 * size)
    small = to_square(image.pixels, height=image.height, width=image.width, resize=resize, side=size)
    if small.ndim == 3 and (small == small[:, :, :1]).all():
        small = small[:, :, 0]
    pixels_CSS = small[None] if small.ndim == 2 else np.ascontiguousarray(small.transpose(2, 0, 1))
    frame = frame_of(image.height, image.width, resize=resize, side=size)
    return StoredImage(pixels_CSS, image.height, image.width, image.notes, frame)


def resize_files(
    paths: Sequence[Path],
    *,
    size: int,
    workers: int,
    resize: str = SQUASH,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[StoredImage | InputError]:
    """Yield each image resized, or its error, in order; memory does not grow with N.

    Args:
        paths: N files.
        size: S, side of the resized images in pixels.
        workers: threads that decode.
        resize: see `resize_file`.
        progress: called as `progress(done, of)`.
    """

    def attempt(path: Path) -> StoredImage | InputError:
        try:
            return resize_file(path, size, resize=resize)
        except InputError as error:
            return error

    # Warnings about files that csr reports itself are noise; filters are set here, once, because setting them
    # inside threads is not safe.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for done, result in enumerate(in_threads(attempt, paths, workers=workers), 1):
            if progress is not None:
                progress(done, len(paths))
            yield result


def check_images(
    paths: Sequence[Path],
    *,
    size: int = 32,
    workers: int = 4,
    resize: str = SQUASH,
    progress: Callable[[int, int], None] | None = None,
    where: Callable[[int], str] | None = None,
) -> tuple[np.ndarray, int]:
    """Decode every image once.

    Args:
        paths: N files.
        size: side in pixels at which an image is searched for colour.
        workers: threads that decode.
        resize: what is searched of it, see `resize_file`.
        progress: called as `progress(done, of)`.
        where: returns the location of an image, by its place in `paths`, for messages.

    Returns:
        Height and width of each original, int64 (N, 2), and the channels of the set (1 or 3).

    Raises:
        InputError: one for all unreadable images, up to 20 named.
    """
    size_N2, channels, problems = survey_images(
        paths, size=size, workers=workers, resize=resize, progress=progress
    )
    raise_unreadable(problems, where=where)
    return size_N2, channels


def survey_images(
    paths: Sequence[Path],
    *,
    size: int,
    workers: int,
    resize: str = SQUASH,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, int, dict[int, str]]:
    """Decode every image once, as `check_images`, but return problems instead of raising them.

    Returns:
        Height and width of each original, int64 (N, 2), 0 for unreadable ones; the channels of the set (1 or
        3); problems by place in `paths`.
    """
    size_N2 = np.zeros((len(paths), 2), dtype=np.int64)
    channels = 1
    problems: dict[int, str] = {}
    results = resize_files(paths, size=size, workers=workers, resize=resize, progress=progress)
    for index, result in enumerate(results):
        if isinstance(result, InputError):
            problems[index] = str(result)
        else:
            size_N2[index] = result.height, result.width
            channels = max(channels, len(result.pixels_CSS))
    return size_N2, channels, problems


def list_unreadable(paths: Sequence[Path], *, limit: int = 256) -> list[str]:
    """Return the problems of the first `limit` files; for `find_images(check=...)`.

    If files are missing nothing will be cached, so only a bounded number is decoded here.
    """
    results = resize_files(paths[:limit], size=1, workers=4)
    return [str(result) for result in results if isinstance(result, InputError)]


def raise_unreadable(problems: dict[int, str], *, where: Callable[[int], str] | None = None) -> None:
    """Raise one InputError for all problems, in the order of the images, if there are any.

    Args:
        problems: by place of the image.
        where: returns the location of an image for the message.
    """
    if not problems:
        return
    lines = [f"{where(index)}: {problems[index]}" if where else problems[index] for index in sorted(problems)]
    raise InputError(f"{len(lines)} image(s) cannot be read: {show_some(lines)}")
