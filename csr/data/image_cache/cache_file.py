"""The file of the decoded-image cache, and how several ranks build it.

Every rank decodes its share into a part of its own, rank 0 joins the parts. A part and the joined file appear
under their names only when complete, and their content depends on their names only, so interrupted and
simultaneous builds do no harm.

File: a header of 32 bytes (magic, N, C, S), then N*C*S*S bytes of pixels, then N*2 int32 heights and widths
of the originals.

Letters: N images, C channels (1 if all are grey, else 3), S side.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import numpy as np

from csr.data.image_cache.parts import PartIndex, read_index, read_planes, write_part
from csr.data.images.square import SQUASH
from csr.runtime.errors import InputError
from csr.runtime.files import replaced_file

DECODER_VERSION = 2  # to be raised whenever the same file would decode to other pixels
DECODERS = ("pillow", "pydicom")  # another version of one may give other pixels
HEADER_BYTES = 32
_MAGIC = b"csrimg01"
_HEADER = struct.Struct("<8sqqq")
_STALE_S = 3600.0


class CacheBuild:
    """One rank's work on one cache file; failures are returned, as raising would leave other ranks waiting.

    Args:
        file: the joined file.
        paths: all N images.
        size: S.
        shard: this rank and how many ranks share the folder.
        resize: see `csr.data.images.square`.
    """

    def __init__(
        self, file: Path, paths: list[Path], size: int, shard: tuple[int, int], *, resize: str = SQUASH
    ) -> None:
        self.file, self.paths, self.size, self.resize = file, paths, size, resize
        self.rank, self.world = shard

    def _part(self, rank: int) -> Path:
        return self.file.with_name(f"{self.file.stem}.{rank}of{self.world}.part")

    def _is_done(self) -> bool:
        return is_complete(self.file, len(self.paths), self.size)

    def write_own_part(self, workers: int, progress: Callable[[int, int], None] | None) -> str | None:
        """Decode every world-th image into this rank's part, if that is missing; return why it failed."""
        own = self._part(self.rank)
        index = read_index(own)
        if self._is_done() or (index is not None and not index.problems):
            return None
        try:
            own.parent.mkdir(parents=True, exist_ok=True)
            if index is not None:  # with damaged images; it must not be joined if writing fails
                own.unlink(missing_ok=True)
            paths = self.paths[self.rank :: self.world]
            write_part(own, paths, size=self.size, workers=workers, resize=self.resize, progress=progress)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def join(self) -> tuple[dict[int, str], str | None]:
        """Read all parts and join them on rank 0; return problems by image, and why joining failed."""
        if self._is_done():
            return {}, None
        parts = [read_index(self._part(rank)) for rank in range(self.world)]
        problems = {
            int(place) * self.world + rank: text
            for rank, part in enumerate(parts)
            if part is not None
            for place, text in part.problems.items()
        }
        known = [part for part in parts if part is not None]
        if self.rank or problems or len(known) < self.world:
            return problems, None
        return {}, self._try_to_write(known, self.file)

    def join_others(self, file: Path) -> str | None:
        """Join the readable images into the file of those images alone; return why that failed."""
        parts = [read_index(self._part(rank)) for rank in range(self.world)]
        known = [part for part in parts if part is not None]
        return self._try_to_write(known, file) if len(known) == self.world else None

    def _try_to_write(self, parts: list[PartIndex], file: Path) -> str | None:
        try:
            self._write(parts, file)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _write(self, parts: list[PartIndex], file: Path) -> None:
        channels = max((count for part in parts for count in part.planes), default=1)
        size, sizes = self.size, []
        num = sum(count > 0 for part in parts for count in part.planes)
        with ExitStack() as stack:
            streams = [stack.enter_context(open(self._part(rank), "rb")) for rank in range(self.world)]
            out = stack.enter_context(replaced_file(file))
            out.write(_HEADER.pack(_MAGIC, num, channels, size))
            for index in range(len(self.paths)):
                place, rank = divmod(index, self.world)
                if not parts[rank].planes[place]:
                    continue
                planes_CSS = read_planes(streams[rank], parts[rank].planes[place], size)
                out.write(np.broadcast_to(planes_CSS, (channels, size, size)).tobytes())
                sizes.append(parts[rank].sizes[place])
            out.write(np.asarray(sizes, dtype="<i4").tobytes())

    def clean_up(self) -> None:
        """Remove, on rank 0, parts that are not needed any more, and leftovers of killed runs."""
        if self.rank:
            return
        parts = list(self.file.parent.glob(f"{self.file.stem}.*.part"))
        # A file that is being written is younger; another host may be writing it.
        left = [f for f in self.file.parent.glob("images-*.tmp") if time.time() - _modified(f) > _STALE_S]
        for old in (*parts, *left):
            with contextlib.suppress(OSError):  # of another user, in a folder that is shared
                old.unlink(missing_ok=True)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return time.time()


def cache_key(paths: Sequence[Path], size: int, *, resize: str = SQUASH) -> str:
    """Return a hash of all that decides the file's content, 32 hexadecimal digits.

    Args:
        paths: N images.
        size: S.
        resize: see `csr.data.images.square`.

    Raises:
        InputError: an image cannot be read.
    """
    decoders = " ".join(metadata.version(name) for name in DECODERS)
    # Squashed images keep the name that they had when there was no other way.
    way = "" if resize == SQUASH else f" {resize}"
    digest = hashlib.sha256(f"{DECODER_VERSION} {decoders} {size}{way} {len(paths)}\n".encode())
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
        line = f"{os.path.realpath(path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def cache_length(num: int, channels: int, size: int) -> int:
    """Return the bytes of a whole cache file of N images with C channels and side S."""
    return _HEADER.size + num * (channels * size * size + 8)


def is_complete(file: Path, num: int, size: int) -> bool:
    """Return whether a file is a whole cache of `num` images of side `size`."""
    try:
        with open(file, "rb") as stream:
            magic, count, channels, side = _HEADER.unpack(stream.read(_HEADER.size))
            length = os.fstat(stream.fileno()).st_size
    except (OSError, struct.error):
        return False
    whole = length == cache_length(num, channels, size)
    return whole and (magic, count, side) == (_MAGIC, num, size)


def read_sizes(file: Path, num: int) -> tuple[int, np.ndarray]:
    """Return the channels of a complete file of N images, and heights and widths in pixels, int64 (N, 2)."""
    with open(file, "rb") as stream:
        channels = int(_HEADER.unpack(stream.read(_HEADER.size))[2])
        stream.seek(-num * 8, os.SEEK_END)
        size_N2 = np.frombuffer(stream.read(), "<i4").reshape(num, 2).astype(np.int64)
    return channels, size_N2
