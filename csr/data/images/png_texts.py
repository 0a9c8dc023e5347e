"""PNG files whose texts or colour profile are longer than Pillow takes: it would refuse the whole picture.

The limit protects against a few bytes that inflate to gigabytes, so nothing is inflated beyond it here.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator

from PIL.PngImagePlugin import MAX_TEXT_CHUNK, MAX_TEXT_MEMORY

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">I4s")
_KINDS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_OUTSIDE_OF_BODY = 12  # length, name and checksum


def picture_source(path: str | os.PathLike[str]) -> str | os.PathLike[str] | io.BytesIO:
    """Return what to open a picture by: its path, or a copy of a PNG without chunks that are too long.

    Short texts stay, as the orientation may stand in one.
    """
    with open(path, "rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            return path
        omitted = list(_too_long(file.fileno()))
        if not omitted:
            return path
        file.seek(0)
        kept = io.BytesIO()
        for begin, end in omitted:
            kept.write(file.read(begin - file.tell()))
            file.seek(end)
        kept.write(file.read())
    kept.seek(0)
    return kept


def _too_long(file: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the chunks that Pillow may refuse, in bytes of the file."""
    place, total = len(_SIGNATURE), 0
    while len(head := os.pread(file, _HEAD.size, place)) == _HEAD.size:
        length, kind = _HEAD.unpack(head)
        end = place + length + _OUTSIDE_OF_BODY
        if kind in _KINDS:
            size = _text_bytes(file, kind, place + _HEAD.size, length)
            if size > MAX_TEXT_CHUNK or total + size > MAX_TEXT_MEMORY:
                yield place, end
            else:
                total += size
        place = end


def _text_bytes(file: int, kind: bytes, place: int, length: int) -> int:
    """Return the bytes of a text or profile, inflated up to one more than `MAX_TEXT_CHUNK`."""
    if kind == b"tEXt" or length > MAX_TEXT_CHUNK:
        return length
    fields = os.pread(file, length, place).split(b"\0", 1)[-1]  # behind the key
    packed = fields[1:]  # behind the method
    if kind == b"iTXt":
        if not fields[:1].strip(b"\0"):
            return length
        packed = fields[2:].split(b"\0", 2)[-1]  # behind flag, method, language and translated key
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(packed, MAX_TEXT_CHUNK)
    except zlib.error:
        return length  # Pillow passes it over
    return len(inflated) + bool(inflater.unconsumed_tail)
