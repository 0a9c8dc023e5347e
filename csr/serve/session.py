"""Images that are open, each with the history of its edits; in memory only, the oldest closed first."""

from __future__ import annotations

import datetime
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from csr.serve.answers import tell_outcome
from csr.serve.case import Case, Outcome
from csr.serve.edits import EditSet
from csr.serve.limits import MAX_STEPS, Limits
from csr.serve.upload import Upload

Answer = dict[str, Any]


class GoneError(LookupError):
    """No such session: it never was, was closed, or timed out."""


class FullError(RuntimeError):
    """A session has as many steps as are recorded."""


@dataclass(frozen=True)
class ImageFacts:
    """What a record says about the image; the pixels are not in it."""

    name: str
    sha256: str
    num_bytes: int
    height: int
    width: int

    @classmethod
    def of(cls, upload: Upload) -> ImageFacts:
        return cls(upload.name, upload.sha256, upload.num_bytes, upload.height, upload.width)

    def to_dict(self) -> Answer:
        return {
            "name": self.name,
            "sha256": self.sha256,
            "bytes": self.num_bytes,
            "height": self.height,
            "width": self.width,
        }


class Session:
    """One image and what was done to its diagnosis.

    Args:
        image: facts for the record.
        view: PNG for the page.
        case: what the network computed.
        first: the diagnosis without edits.
    """

    def __init__(self, image: ImageFacts, *, view: bytes, case: Case, first: Outcome) -> None:
        self.id = secrets.token_urlsafe(18)
        self.image, self.view, self.case = image, view, case
        self.log: list[Answer] = []
        self._states: list[tuple[Outcome, Answer]] = []
        self._at = -1
        self._append(first, "open")

    @property
    def edits(self) -> EditSet:
        return self.outcome.edits

    @property
    def outcome(self) -> Outcome:
        return self._states[self._at][0]

    def answer(self) -> Answer:
        """The state as the page is told."""
        height, width = self.case.output.similarity_maps.shape[3:]
        return {
            "session": self.id,
            "step": self._at,
            "num_steps": len(self.log),
            "can_undo": self._at > 0,
            "can_redo": self._at + 1 < len(self._states),
            "image": self.image.to_dict(),
            "map": {"height": height, "width": width, "low": self.case.scale[0], "high": self.case.scale[1]},
            **self._states[self._at][1],
        }

    def check_open(self) -> None:
        """Raise FullError if no step fits into the record."""
        if len(self.log) >= MAX_STEPS:
            raise FullError

    def edit(self, outcome: Outcome, *, action: str) -> None:
        """Make new edits the state; what was undone before is forgotten."""
        self._append(outcome, action)

    def move(self, action: str) -> None:
        """`undo` or `redo`; does nothing at the end of the history."""
        at = self._at + {"undo": -1, "redo": 1}[action]
        if 0 <= at < len(self._states):
            self._at = at
            self._note(action)

    def _append(self, outcome: Outcome, action: str) -> None:
        self._states[self._at + 1 :] = [(outcome, tell_outcome(self.case, outcome))]
        self._at = len(self._states) - 1
        self._note(action)

    def _note(self, action: str) -> None:
        told = self._states[self._at][1]
        result = {key: value for key, value in told.items() if key != "edits"}
        self.log.append({"time": utc_now(), "action": action, "edits": told["edits"], "result": result})


def utc_now() -> str:
    """ISO 8601 with milliseconds."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Sessions:
    """At most `max_sessions`; used from the event loop only.

    Args:
        limits: of the server.
        clock: seconds, for tests.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._open: OrderedDict[str, tuple[Session, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, session: Session) -> None:
        self.close_unused()
        while len(self._open) >= self._limits.max_sessions:
            self._open.popitem(last=False)
        self._open[session.id] = (session, self._clock())

    def get(self, session_id: str) -> Session:
        """Raises GoneError."""
        self.close_unused()
        if session_id not in self._open:
            raise GoneError
        session, _ = self._open.pop(session_id)
        self._open[session_id] = (session, self._clock())
        return session

    def close(self, session_id: str) -> None:
        self._open.pop(session_id, None)

    def close_unused(self) -> None:
        """Close what nobody used for the time-out."""
        oldest = self._clock() - self._limits.timeout_s
        for session_id in [key for key, (_, used) in self._open.items() if used < oldest]:
            del self._open[session_id]
