"""The decoded-image cache: every image decoded and resized once, then read from one mapped file.

Letters: N images, B batch, C channels (1 if all images are grey, else 3), S stored side.

The file's name is a hash of the images' paths, sizes and times, of S, of the way to a square and of the
decoders' versions, so a file that exists under the name is right, whoever wrote it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr.data.image_cache.cache_file import HEADER_BYTES, CacheBuild, cache_key, is_complete, read_sizes
from csr.data.image_cache.parts import read_noted, write_noted
from csr.data.images.resize import (
    check_images,
    list_unreadable,
    raise_unreadable,
    resize_file,
    survey_images,
)
from csr.data.images.square import SQUASH, frames_of
from csr.runtime.errors import InputError

__all__ = ["ImageStore", "check_images", "list_unreadable", "open_readable", "open_store"]


class ImageStore:
    """Decoded images by position, as tensors.

    Attributes:
        paths: the N image files.
        channels, size: C and S.
        resize: how images become square, see `csr.data.images.square`.
        original_sizes_N2: int64, height and width of each original as displayed, in pixels.

    Args:
        file: the cache file; None decodes the images again whenever they are needed.
        workers: threads that decode without a cache file.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        channels: int,
        size: int,
        original_sizes_N2: np.ndarray,
        file: Path | None,
        workers: int = 1,
        resize: str = SQUASH,
    ) -> None:
        self.paths, self.channels, self.size, self._file = tuple(paths), channels, size, file
        self.original_sizes_N2, self._workers, self.resize = original_sizes_N2, workers, resize
        self._pool: ThreadPoolExecutor | None = None
        self._pixels: np.ndarray | None = None
        self._map()

    def _map(self) -> None:
        if self._file is not None:
            shape = (len(self.paths), self.channels, self.size, self.size)
            self._pixels = np.memmap(self._file, np.uint8, "r", HEADER_BYTES, shape)
            with suppress(OSError):
                os.utime(self._file)  # in use, see `csr cache prune`; another user's file may refuse

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes map the file again; sending its pixels would copy all of them.
        return {**self.__dict__, "_pixels": None, "_pool": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return B images by position, uint8 (B, C, S, S), a copy; decode the files if there is no cache."""
        index_B = np.asarray(indices, dtype=np.int64)
        if self._pixels is not None:
            return torch.from_numpy(np.asarray(self._pixels[index_B]))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="csr-decode")
        shape = (len(index_B), self.channels, self.size, self.size)
        image_BCSS = np.empty(shape, dtype=np.uint8)

        def decode(place: int) -> None:
            path = self.paths[index_B[place]]
            image_BCSS[place] = resize_file(path, self.size, resize=self.resize).pixels_CSS

        # The list makes the error of an unreadable file be raised here.
        list(self._pool.map(decode, range(len(index_B))))
        return torch.from_numpy(image_BCSS)

    @property
    def frame_N4(self) -> np.ndarray:
        """Return the stored squares in fractions of the originals, float64 (N, 4)."""
        return frames_of(self.original_sizes_N2, resize=self.resize, side=self.size)

    @property
    def identity(self) -> str:
        """Return a hash of paths, sizes and times of the files, which changes with their pixels."""
        # Cached pixels stay as they were when the cache was opened, files read on demand may change.
        return self._file.stem if self._file else cache_key(self.paths, self.size, resize=self.resize)


def open_store(
    paths: Sequence[Path],
    *,
    size: int,
    cache_dir: str | os.PathLike[str] | None,
    workers: int = 4,
    resize: str = SQUASH,
    progress: Callable[[int, int], None] | None = None,
    shard: tuple[int, int] = (0, 1),
    barrier: Callable[[], None] = lambda: None,
    where: Callable[[int], str] | None = None,
) -> ImageStore:
    """Open the cache of some images, and build it first if there is none.

    Every rank calls it with the same images. Each rank decodes its share into a part of its own, rank 0 joins
    the parts; interrupted and simultaneous builds do no harm (`csr.data.image_cache.cache_file`).

    Args:
        paths: N image files, in the order of the label table.
        size: S in pixels; images are resized (bilinear, antialiased) to S x S.
        cache_dir: folder for the file, made if missing; None: every rank checks all images now, and decodes
            on demand.
        workers: threads that decode.
        resize: how they become square, see `csr.data.images.square`.
        progress: called as `progress(done, of)` while this rank decodes.
        shard: this rank and how many share the folder.
        barrier: waits until all ranks have called it.
        where: returns an image's location for messages, e.g. `LabelTable.where`.

    Raises:
        InputError: one for all unreadable images, up to 20 named, the same on all ranks; or the folder cannot
            be written.
    """
    paths = [Path(path) for path in paths]
    assert size >= 1 and workers >= 1 and 0 <= shard[0] < shard[1]
    store_of = partial(ImageStore, paths, size=size, resize=resize)
    if cache_dir is None:
        sizes_N2, channels = check_images(
            paths, size=size, workers=workers, resize=resize, progress=progress, where=where
        )
        return store_of(channels=channels, original_sizes_N2=sizes_N2, file=None, workers=workers)
    file = Path(cache_dir) / f"images-{cache_key(paths, size, resize=resize)}.bin"
    build = CacheBuild(file, paths, size, shard, resize=resize)
    # Every rank passes both barriers whatever happens to it, or the others would wait forever.
    failure = build.write_own_part(workers, progress)
    barrier()
    problems, join_failure = build.join()
    barrier()
    build.clean_up()
    raise_unreadable(problems, where=where)
    if not is_complete(build.file, len(paths), size):
        reason = failure or join_failure or "another rank could not write, or does not see this folder"
        raise _unwritable(cache_dir, reason)
    channels, size_N2 = read_sizes(build.file, len(paths))
    return store_of(channels=channels, original_sizes_N2=size_N2, file=build.file)


def _unwritable(cache_dir: str | os.PathLike[str], reason: str) -> InputError:
    return InputError(
        f"{cache_dir}: the image cache cannot be written ({reason}); free space there "
        "or choose another folder"
    )


def open_readable(
    paths: Sequence[Path],
    *,
    size: int,
    cache_dir: str | os.PathLike[str] | None,
    most: int,
    workers: int = 4,
    resize: str = SQUASH,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageStore | None, dict[int, str]]:
    """Open a store of the readable images; one process does so, the others then `open_store` it.

    With a cache the images are decoded once, and the unreadable ones are noted beside it: the next call
    decodes those alone, which a newly installed decoder may have made readable.

    Args:
        paths, size, cache_dir, workers, resize, progress: as for `open_store`.
        most: number of images that may be omitted.

    Returns:
        The store of the readable images (None if there is none, or more than `most` are unreadable), and the
        problems of the others by place in `paths`.

    Raises:
        InputError: the folder cannot be written, or a file vanished.
    """
    paths = [Path(path) for path in paths]
    if cache_dir is None:
        size_N2, channels, problems = survey_images(
            paths, size=size, workers=workers, resize=resize, progress=progress
        )
        good = [index for index in range(len(paths)) if index not in problems]
        if len(problems) > most or not good:
            return None, problems
        store = ImageStore(
            [paths[index] for index in good],
            channels=channels,
            size=size,
            original_sizes_N2=size_N2[good],
            file=None,
            workers=workers,
            resize=resize,
        )
        return store, problems
    file = Path(cache_dir) / f"images-{cache_key(paths, size, resize=resize)}.bin"
    noted = read_noted(file, len(paths))
    if noted is None:
        build = CacheBuild(file, paths, size, (0, 1), resize=resize)
        problems = _fill_cache(build, workers, progress, most=most)
    else:
        some = survey_images([paths[index] for index in noted], size=1, workers=workers)[2]
        problems = {noted[place]: text for place, text in some.items()}
    good_paths = [path for index, path in enumerate(paths) if index not in problems]
    if len(problems) > most or not good_paths:
        return None, problems
    open_it = partial(open_store, size=size, cache_dir=cache_dir, workers=workers, resize=resize)
    return open_it(good_paths, progress=progress), problems


def _fill_cache(
    build: CacheBuild, workers: int, progress: Callable[[int, int], None] | None, *, most: int
) -> dict[int, str]:
    """Decode all images into the cache file of the readable ones; return the others' problems by place."""
    failure = build.write_own_part(workers, progress)
    problems, join_failure = build.join()
    if not failure and not join_failure and 0 < len(problems) <= most < len(build.paths):
        good_paths = [path for index, path in enumerate(build.paths) if index not in problems]
        key = cache_key(good_paths, build.size, resize=build.resize)
        join_failure = build.join_others(build.file.with_name(f"images-{key}.bin"))
        write_noted(build.file, list(problems))
    build.clean_up()
    if failure or join_failure:
        raise _unwritable(build.file.parent, failure or join_failure or "")
    return problems
