"""Files of weights made by hand."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch


class Bomb:
    """Its unpickling calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def torch_bytes(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def rezipped(
    content: bytes, change: Callable[[zipfile.ZipInfo, bytes], tuple[str, bytes]], method: int
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", method) as new:
        for member in old.infolist():
            new.writestr(*change(member, old.read(member)))
    return out.getvalue()


def header(text: str | bytes, *, length: int | None = None, body: bytes = b"") -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if length is None else length) + data + body


STATE = {"w": torch.ones(3), "b": torch.zeros(2)}
ENTRY = '{"w": {"dtype": "F32", "shape": [%s], "data_offsets": [%s, %s]}}'
ONE = torch.ones(1)
