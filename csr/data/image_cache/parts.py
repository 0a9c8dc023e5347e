"""Parts of the decoded-image cache: the images that one rank decoded, until all parts are joined.

File: for each image its planes (1 or 3, none if it could not be read), then one JSON line with the planes,
sizes and problems of all images, then the JSON's length and a magic. A part is renamed into place when it is
complete.

Letters: S side of the stored square.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from csr.data.images.resize import resize_files
from csr.data.images.square import SQUASH
from csr.runtime.errors import InputError
from csr.runtime.files import replaced_file

_TAIL = struct.Struct("<q8s")
_MAGIC = b"csrpart1"


@dataclass
class PartIndex:
    """The index at the end of a part.

    Attributes:
        planes: of each image, 0 if it could not be read.
        sizes: height and width of each original, in pixels.
        problems: place in the part -> why the image could not be read.
    """

    planes: list[int]
    sizes: list[tuple[int, int]]
    problems: dict[str, str]


def write_part(
    file: Path,
    paths: Sequence[Path],
    *,
    size: int,
    workers: int,
    resize: str = SQUASH,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Decode images into a part; unreadable ones are noted in it and do not stop the others.

    Args:
        file: the part.
        paths: its images, in order.
        size: S.
        workers: threads that decode.
        resize: see `csr.data.images.square`.
        progress: called as `progress(done, of)`.

    Raises:
        OSError: the file cannot be written.
    """
    index = PartIndex([], [], {})
    results = resize_files(paths, size=size, workers=workers, resize=resize, progress=progress)
    with replaced_file(file) as stream:
        for place, result in enumerate(results):
            if isinstance(result, InputError):
                index.problems[str(place)] = str(result)
                index.planes.append(0)
                index.sizes.append((0, 0))
            else:
                # Plain writes and no mapping, where a full disk would be a crash instead of an OSError.
                stream.write(result.pixels_CSS.tobytes())
                index.planes.append(len(result.pixels_CSS))
                index.sizes.append((result.height, result.width))
        tail = json.dumps(asdict(index)).encode()
        stream.write(tail + _TAIL.pack(len(tail), _MAGIC))


def read_index(file: Path) -> PartIndex | None:
    """Return the index of a part, or None if there is no complete part."""
    try:
        with open(file, "rb") as stream:
            stream.seek(-_TAIL.size, os.SEEK_END)
            length, magic = _TAIL.unpack(stream.read())
            if magic != _MAGIC:
                return None
            stream.seek(-_TAIL.size - length, os.SEEK_END)
            return PartIndex(**json.loads(stream.read(length)))
    except (OSError, ValueError, TypeError):
        return None


def read_planes(stream: BinaryIO, planes: int, size: int) -> np.ndarray:
    """Return the next image of an open part, uint8 (planes, S, S).

    Args:
        stream: the part, at the beginning of the image.
        planes: 1 or 3.
        size: S.
    """
    count = planes * size * size
    return np.frombuffer(stream.read(count), np.uint8).reshape(planes, size, size)


def write_noted(file: Path, indices: list[int]) -> None:
    """Note beside a cache file which of its images could not be read; if that fails, they are read again."""
    with suppress(OSError), replaced_file(_noted_at(file)) as stream:
        stream.write(json.dumps(sorted(indices)).encode())


def read_noted(file: Path, num: int) -> list[int] | None:
    """Return what `write_noted` wrote for `num` images, or None if there is no intact note."""
    try:
        noted = json.loads(_noted_at(file).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    fits = isinstance(noted, list) and all(type(n) is int and 0 <= n < num for n in noted)
    return sorted(set(noted)) if fits else None


def _noted_at(file: Path) -> Path:
    return file.with_suffix(".unreadable.json")
