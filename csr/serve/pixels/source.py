"""Images of sessions in full depth: the file's bytes stay, and are decoded when looked at."""

from __future__ import annotations

import threading
import weakref

import numpy as np

from csr.data.images.full_depth import FullDepth, decode_full_depth, full_range
from csr.serve.pixels import schemas
from csr.serve.pixels.cutting import MAX_FACTOR, MAX_SIDE
from csr.serve.upload import in_memory, shown_name

KEPT_BYTES = 2**28  # decoded; one image is always kept
_MAX_LABEL = 60


class Source:
    """The file of one session.

    Args:
        data: its bytes, which could be decoded before.
        max_pixels: as when it was opened.
    """

    def __init__(self, data: bytes, *, max_pixels: int) -> None:
        self._data, self._max_pixels = data, max_pixels
        self._depth: FullDepth | None = None

    def depth(self) -> FullDepth:
        """Return the image; decoded at the first call, or if it was dropped since.

        Raises:
            InputError: see `csr.data.images.full_depth`.
        """
        if self._depth is None:
            with in_memory(self._data) as path:
                self._depth = decode_full_depth(path, max_pixels=self._max_pixels)
        return self._depth

    @property
    def num_bytes(self) -> int:
        """Bytes of the decoded image, 0 if it is not decoded."""
        return 0 if self._depth is None else self._depth.raw.nbytes

    def drop(self) -> None:
        """Forget the decoded image; the file stays."""
        self._depth = None


class Decoded:
    """The images decoded last, of all sessions, within a number of bytes; none of closed sessions."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._recent: list[weakref.ref[Source]] = []  # the last used last
        self._lock = threading.Lock()

    @property
    def num_alive(self) -> int:
        """Images looked at whose sessions are open."""
        return sum(ref() is not None for ref in self._recent)

    def depth(self, source: Source) -> FullDepth:
        """Return an image, and drop those decoded images that were unused for longest."""
        with self._lock:
            depth = source.depth()
            alive = [ref for ref in self._recent if ref() is not None and ref() is not source]
            self._recent = [*alive, weakref.ref(source)]
            total = 0
            for ref in reversed(self._recent):
                one = ref()
                if one is None:
                    continue
                total += one.num_bytes
                if total > self._kept_bytes and one is not source:
                    one.drop()
            return depth


def depth_facts(depth: FullDepth) -> schemas.Depth:
    """Return what the page needs to show raw numbers through a window."""
    height, width = depth.raw.shape[:2]
    windows = [
        schemas.Window(
            name=_label(one.name) or f"window {number} of the file", centre=one.centre, width=one.width
        )
        for number, one in enumerate(depth.windows, 1)
    ]
    whole = full_range(depth.low, depth.high, depth.function, "full range")
    return schemas.Depth(
        height=height,
        width=width,
        channels=1 if depth.raw.ndim == 2 else 3,
        bits=8 * depth.raw.itemsize,
        slope=depth.slope,
        intercept=depth.intercept,
        low=depth.low,
        high=depth.high,
        unit=_label(depth.unit)[:12],
        function=depth.function,
        inverted=depth.inverted,
        padding=None if depth.padding is None else list(depth.padding),
        is_exact=depth.is_exact,
        shown_by=depth.shown_by,
        window=None if depth.window is None else _as_seen(depth.window.centre, depth.window.width),
        windows=[*windows, schemas.Window(name=whole.name, centre=whole.centre, width=whole.width)],
        levels=len(depth.shown_N),
        max_side=MAX_SIDE,
        max_reduce=MAX_FACTOR,
    )


def _as_seen(centre: float, width: float) -> schemas.Window:
    return schemas.Window(name="as the model sees it", centre=centre, width=width)


def _label(text: str) -> str:
    """Return a file's text as one short line, '' if nothing of it can be shown."""
    shown = shown_name(text)[:_MAX_LABEL]
    return "" if shown == "image" and text.strip() != "image" else shown


def little_endian(raw: np.ndarray) -> bytes:
    """Return raw numbers row by row, little endian."""
    return np.ascontiguousarray(raw, dtype=raw.dtype.newbyteorder("<")).tobytes()
