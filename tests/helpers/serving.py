"""Requests of the tests to the server."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

BASE = "http://127.0.0.1:8000"
BINARY = {"content-type": "application/octet-stream"}
Client = Any


def png(pixels: np.ndarray | None = None, *, seed: int = 0, **options: Any) -> bytes:
    """Return a PNG file, of noise 90 pixels high and 140 wide unless given."""
    if pixels is None:
        pixels = np.random.default_rng(seed).integers(0, 256, (90, 140), dtype=np.uint8)
    return saved(Image.fromarray(pixels), "PNG", **options)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def sent(client: Client, data: bytes, *, name: str = "scan.png") -> Any:
    return client.post("/api/images", content=data, headers={**BINARY, "x-image-name": name})


def opened(client: Client, data: bytes | None = None) -> dict[str, Any]:
    answer = sent(client, png() if data is None else data)
    assert answer.status_code == 201, answer.text
    return answer.json()


def put(client: Client, session: str, **edits: Any) -> Any:
    return client.put(f"/api/sessions/{session}/edits", json=edits)


def box(kind: str, *corners: float, concept: str | None = None) -> dict[str, Any]:
    names = ("x_min", "y_min", "x_max", "y_max")
    return {"kind": kind, **dict(zip(names, corners, strict=True)), "concept": concept}
