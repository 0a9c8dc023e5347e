"""One image that is open, and the history of its edits."""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass
from typing import Literal

from csr.serve.answers import result_of
from csr.serve.case import Case, Outcome
from csr.serve.limits import MAX_STEPS
from csr.serve.pixels.source import Source
from csr.serve.records.schemas import Notes, Restored, SessionState, Step
from csr.serve.schemas import Action, Edits, ImageFacts, MapSize, Result


class FullError(RuntimeError):
    """A session has as many steps as are recorded."""


class StaleError(RuntimeError):
    """A change was made to a state that is no longer the last one."""


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
        source: the file, for the image in full size and depth.
        time: of the first step; None: now.

    Attributes:
        id: secret name of the session.
        log: every action so far, for the record.
        notes: of the reader.
        restored: which steps came from a record; None: none did.
        revision: rises with every change.
    """

    def __init__(
        self,
        image: ImageFacts,
        *,
        view: bytes,
        case: Case,
        first: Outcome,
        source: Source,
        time: str | None = None,
    ) -> None:
        self.id = secrets.token_urlsafe(18)
        self.image, self.view, self.case, self.source = image, view, case, source
        self.log: list[Step] = []
        self.notes = Notes()
        self.restored: Restored | None = None
        self.revision = 0
        self._history: list[_Entry] = []
        self._at = -1
        self._append(first, "open", time)

    @property
    def edits(self) -> Edits:
        """The edits in force."""
        return self.outcome.edits

    @property
    def outcome(self) -> Outcome:
        """The diagnosis under the edits in force."""
        return self._history[self._at].outcome

    def state(self) -> SessionState:
        """Return the whole state, as the page shows it."""
        height, width = self.case.output.similarity_maps.shape[3:]
        return SessionState(
            session=self.id,
            revision=self.revision,
            step=self._at,
            num_steps=len(self.log),
            can_undo=self._at > 0,
            can_redo=self._at + 1 < len(self._history),
            image=self.image,
            map=MapSize(height=height, width=width, frame=list(self.case.frame)),
            edits=self.edits,
            notes=self.notes,
            last_time=self.log[-1].time,
            last_action=self.log[-1].action,
            restored=self.restored,
            **dict(self._history[self._at].result),
        )

    def check_open(self) -> None:
        """Raise FullError if no step fits into the record."""
        if len(self.log) >= MAX_STEPS:
            raise FullError

    def check_revision(self, revision: int | None) -> None:
        """Raise StaleError unless a change starts from the last state; None: whatever it is."""
        if revision is not None and revision != self.revision:
            raise StaleError

    def edit(self, outcome: Outcome, *, action: Literal["edit", "reset"], time: str | None = None) -> None:
        """Put new edits in force; what was undone before is forgotten."""
        self._append(outcome, action, time)

    def move(self, action: Literal["undo", "redo"], *, time: str | None = None) -> bool:
        """Move by one step; return False at the end of the history, where nothing happens."""
        at = self._at + {"undo": -1, "redo": 1}[action]
        if not 0 <= at < len(self._history):
            return False
        self._at = at
        self._record(action, time)
        return True

    def write(self, notes: Notes) -> None:
        """Put other notes in place of those that were."""
        if notes != self.notes:
            self.notes = notes
            self.revision += 1

    def restarted(self, first: Outcome, *, time: str) -> Session:
        """Return a session of the same image without a history."""
        return Session(self.image, view=self.view, case=self.case, first=first, source=self.source, time=time)

    def take(self, other: Session, restored: Restored) -> None:
        """Put the history and notes of a session of the same image in place of one's own."""
        assert other.case is self.case
        self.log, self._history, self._at = other.log, other._history, other._at
        self.notes, self.restored = other.notes, restored
        self.revision += 1

    def _append(self, outcome: Outcome, action: Action, time: str | None) -> None:
        self._history[self._at + 1 :] = [_Entry(outcome, result_of(self.case, outcome))]
        self._at = len(self._history) - 1
        self._record(action, time)

    def _record(self, action: Action, time: str | None) -> None:
        result = self._history[self._at].result
        self.log.append(Step(time=time or utc_now(), action=action, edits=self.edits, result=result))
        self.revision += 1


def utc_now() -> str:
    """Return the time as ISO 8601 with milliseconds."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
