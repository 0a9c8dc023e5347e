"""Images that are open, each with the history of its edits; in memory only, the oldest closed first."""

from __future__ import annotations

import datetime
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from csr.serve.answers import result_of
from csr.serve.case import Case, Outcome
from csr.serve.limits import MAX_STEPS, Limits
from csr.serve.schemas import Action, Edits, ImageFacts, MapSize, Result, State, Step


class GoneError(LookupError):
    """No such session: it never was, was closed, or timed out."""


class FullError(RuntimeError):
    """A session has as many steps as are recorded."""


@dataclass(frozen=True, eq=False)
class _Entry:
    """One place in the history: a diagnosis, and the same as the page is shown it."""

    outcome: Outcome
    result: Result


class Session:
    """One image and what was done to its diagnosis.

    Args:
        image: facts for the record.
        view: PNG for the page.
        case: what the network computed.
        first: the diagnosis without edits.

    Attributes:
        id: secret name of the session.
        log: every action so far, for the record.
    """

    def __init__(self, image: ImageFacts, *, view: bytes, case: Case, first: Outcome) -> None:
        self.id = secrets.token_urlsafe(18)
        self.image, self.view, self.case = image, view, case
        self.log: list[Step] = []
        self._history: list[_Entry] = []
        self._at = -1
        self._append(first, "open")

    @property
    def edits(self) -> Edits:
        """The edits in force."""
        return self.outcome.edits

    @property
    def outcome(self) -> Outcome:
        """The diagnosis under the edits in force."""
        return self._history[self._at].outcome

    def state(self) -> State:
        """Return the whole state, as the page shows it."""
        height, width = self.case.output.similarity_maps.shape[3:]
        return State(
            session=self.id,
            step=self._at,
            num_steps=len(self.log),
            can_undo=self._at > 0,
            can_redo=self._at + 1 < len(self._history),
            image=self.image,
            map=MapSize(height=height, width=width, frame=list(self.case.frame)),
            edits=self.edits,
            **dict(self._history[self._at].result),
        )

    def check_open(self) -> None:
        """Raise FullError if no step fits into the record."""
        if len(self.log) >= MAX_STEPS:
            raise FullError

    def edit(self, outcome: Outcome, *, action: Literal["edit", "reset"]) -> None:
        """Put new edits in force; what was undone before is forgotten."""
        self._append(outcome, action)

    def move(self, action: Literal["undo", "redo"]) -> None:
        """Move by one step; nothing happens at the end of the history."""
        at = self._at + {"undo": -1, "redo": 1}[action]
        if 0 <= at < len(self._history):
            self._at = at
            self._record(action)

    def _append(self, outcome: Outcome, action: Action) -> None:
        self._history[self._at + 1 :] = [_Entry(outcome, result_of(self.case, outcome))]
        self._at = len(self._history) - 1
        self._record(action)

    def _record(self, action: Action) -> None:
        result = self._history[self._at].result
        self.log.append(Step(time=utc_now(), action=action, edits=self.edits, result=result))


def utc_now() -> str:
    """Return the time as ISO 8601 with milliseconds."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Sessions:
    """The open sessions, at most `max_sessions`; used from the event loop only.

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
        """Open a session; those that were unused for longest make room for it."""
        self.close_unused()
        while len(self._open) >= self._limits.max_sessions:
            self._open.popitem(last=False)
        self._open[session.id] = (session, self._clock())

    def get(self, session_id: str) -> Session:
        """Return an open session, which counts as used now.

        Raises:
            GoneError: it is not open.
        """
        self.close_unused()
        if session_id not in self._open:
            raise GoneError
        session, _ = self._open.pop(session_id)
        self._open[session_id] = (session, self._clock())
        return session

    def close(self, session_id: str) -> None:
        """Forget a session, if it is open."""
        self._open.pop(session_id, None)

    def close_unused(self) -> None:
        """Close the sessions that were not used for the time-out."""
        oldest = self._clock() - self._limits.timeout_s
        for session_id in [key for key, (_, used) in self._open.items() if used < oldest]:
            del self._open[session_id]
