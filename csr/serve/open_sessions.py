"""Images that are open: in memory only, how long they stay, and why those that are gone went."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from csr.serve.limits import HEARTBEAT_S, MAX_ALIVE, Limits
from csr.serve.schemas import Problem, Schema
from csr.serve.session import Session

Gone = Literal["unused", "kept", "room", "closed", "unknown"]
_REMEMBERED = 10_000  # sessions that are gone, with the reason
_SILENT_S = 3 * HEARTBEAT_S  # after which no page holds a session


class AliveIn(Schema):
    """The sessions that a page has open."""

    sessions: list[Annotated[str, Field(max_length=64)]] = Field(max_length=MAX_ALIVE)


class Alive(Schema):
    """Which of them are, at which revision, and why the others are gone."""

    open: dict[str, int]
    gone: dict[str, Problem]


class GoneError(LookupError):
    """No such session: it never was, was closed, or timed out; or no such place in the model."""

    def __init__(self, text: str, reason: Gone | Literal["place"]) -> None:
        super().__init__(text)
        self.reason: Gone | Literal["place"] = reason


@dataclass
class _Open:
    """An open session; when it was used last, and when a page said last that it holds it."""

    session: Session
    used: float
    held: float


class Sessions:
    """The open sessions, at most `max_sessions`; used from the event loop only.

    Args:
        limits: of the server.
        clock: seconds, for tests.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._gone: OrderedDict[str, Gone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, session: Session) -> None:
        """Open a session; those that no page holds, then those unused for longest, make room for it."""
        self.close_unused()
        now = self._clock()
        while len(self._open) >= self._limits.max_sessions:
            first = min(self._open, key=lambda key: self._worth(self._open[key], now))
            self.close(first, "room")
        self._open[session.id] = _Open(session, now, now)

    def get(self, session_id: str) -> Session:
        """Return an open session, which counts as used now.

        Raises:
            GoneError: it is not open; says why.
        """
        self.close_unused()
        if session_id not in self._open:
            raise self._why(session_id)
        one = self._open[session_id]
        one.used = one.held = self._clock()
        self._open.move_to_end(session_id)
        return one.session

    def hold(self, session_ids: Sequence[str]) -> Alive:
        """Keep the sessions of a page that is open; they do not count as used."""
        self.close_unused()
        now = self._clock()
        for session_id in session_ids:
            if session_id in self._open:
                self._open[session_id].held = now
        is_open = {key: self._open[key].session.revision for key in session_ids if key in self._open}
        gone = {key: self._why(key) for key in session_ids if key not in self._open}
        problems = {key: Problem(detail=str(why), reason=why.reason) for key, why in gone.items()}
        return Alive(open=is_open, gone=problems)

    def close(self, session_id: str, reason: Gone = "closed") -> None:
        """Forget a session, if it is open, but not why."""
        if self._open.pop(session_id, None) is None:
            return
        self._gone[session_id] = reason
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)

    def close_unused(self) -> None:
        """Close the sessions whose time is over."""
        now = self._clock()
        for key, one in list(self._open.items()):
            if one.held < now - self._limits.timeout_s:
                self.close(key, "unused")
            elif one.used < now - max(self._limits.keep_s, self._limits.timeout_s):
                self.close(key, "kept")

    def _worth(self, one: _Open, now: float) -> tuple[bool, float]:
        return one.held >= now - _SILENT_S, one.used

    def _why(self, session_id: str) -> GoneError:
        reason = self._gone.get(session_id, "unknown")
        minutes, hours = self._limits.timeout_s / 60, self._limits.keep_s / 3600
        words: dict[Gone, str] = {
            "unused": f"the server forgot this image after {minutes:g} minutes without use",
            "kept": f"the server forgot this image {hours:g} hours after its last use",
            "room": f"the server closed this image to make room: it holds {self._limits.max_sessions}",
            "closed": "this image was closed",
            "unknown": "this image is not open (any more): the server was restarted, or never had it",
        }
        return GoneError(f"{words[reason]}; open the image again", reason)
