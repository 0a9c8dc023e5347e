"""Limits of one server: bytes, pixels, sessions, requests that wait."""

from __future__ import annotations

from dataclasses import dataclass

JSON_BYTES = 2**18  # of any request but an image's; 64 boxes and 1000 decisions are far below
RECORD_BYTES = 2**23  # of a record to replay: 1000 steps with all their boxes, probabilities as results
MAX_BOXES = 64
MAX_STEPS = 1000  # of a session's record
MAX_MAPS = 256  # in one request
MAX_NAME = 200  # characters of an image's name that are kept
MAX_READER = 100  # characters of the reader's name
MAX_TEXT = 4000  # characters of a comment, and of a conclusion
MAX_ALIVE = 1000  # images that one page says it has open
REPLAYS = 2  # records that are replayed at once
HEARTBEAT_S = 60.0  # browsers let hidden pages do something once a minute


@dataclass(frozen=True)
class Limits:
    """Bounds that the command line sets.

    Attributes:
        max_bytes: of one image file.
        max_pixels: of one image, decoded.
        max_sessions: images in memory; opening one more closes the one that was unused for longest.
        timeout_s: time after which a session is closed that was not used and that no open page holds.
        keep_s: time after its last use when a session is closed although a page holds it.
        receive_s: time within which an upload must have arrived.
        uploads: images that are received or wait for the network at once; more are answered with 503.
        edits: edits that wait at once; more are answered with 503.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 32_000_000
    max_sessions: int = 16
    timeout_s: float = 1800.0
    keep_s: float = 8 * 3600.0
    receive_s: float = 120.0
    uploads: int = 4
    edits: int = 32
