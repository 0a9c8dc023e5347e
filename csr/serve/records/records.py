"""What is done with the records of the open images: written to, downloaded, printed, replayed."""

from __future__ import annotations

import contextlib
import threading

from csr.serve.limits import REPLAYS
from csr.serve.open_sessions import GoneError, Sessions
from csr.serve.records.printed import print_record
from csr.serve.records.record import record_of
from csr.serve.records.replay import SAME, check_belongs, read_record, replay
from csr.serve.records.schemas import ModelName, Notes, Record, Replay, Restored, SessionState
from csr.serve.session import utc_now
from csr.serve.worker import Worker, place


class Records:
    """The records of a server's sessions.

    Args:
        sessions: that are open.
        model: of the server.
        computing: the thread for diagnoses.
        drawing: the thread for pictures.
    """

    def __init__(self, sessions: Sessions, model: ModelName, *, computing: Worker, drawing: Worker) -> None:
        self._sessions, self._model = sessions, model
        self._computing, self._drawing = computing, drawing
        self._replaying = threading.BoundedSemaphore(REPLAYS)

    def replaying(self) -> contextlib.AbstractContextManager[None]:
        """Hold a place while a record arrives and is replayed.

        Raises:
            BusyError: no place is free.
        """
        return place(self._replaying)

    def write(self, session_id: str, notes: Notes, *, revision: int | None = None) -> SessionState:
        """Put the reader's notes in place of those that were.

        Raises:
            GoneError, StaleError: see `edit`.
        """
        session = self._sessions.get(session_id)
        session.check_revision(revision)
        session.write(notes)
        return session.state()

    async def replay(self, session_id: str, data: bytes, *, revision: int | None = None) -> Replay:
        """Put the steps of a record in place of a session's; all of them or, where one is refused, none.

        Args:
            session_id: of the record's image.
            data: the record, not trusted.
            revision: see `edit`.

        Raises:
            InputError: no record, of another model or image, a step that cannot be.
            GoneError, StaleError, BusyError: see `edit`.
        """
        session = self._sessions.get(session_id)
        session.check_revision(revision)
        before = session.revision
        record = await self._computing.run(lambda: read_record(data))
        check_belongs(record, model=self._model, image=session.image)
        fresh, difference = await replay(record, session, run=self._computing.run)
        session.check_revision(before)
        num = len(record.steps)
        session.take(fresh, Restored(time=utc_now(), steps=num, largest_difference=difference))
        return Replay(
            state=session.state(), steps=num, largest_difference=difference, same=difference <= SAME
        )

    def download(self, session_id: str) -> Record:
        """Return the record of a session.

        Raises:
            GoneError: no such session.
        """
        return record_of(self._sessions.get(session_id), self._model)

    async def page(self, session_id: str, target: int | None) -> tuple[str, str]:
        """Return the record as a page to print, and the hash of its image.

        Args:
            session_id: of the image.
            target: the diagnosis that maps are shown for; None: the chosen one.

        Raises:
            GoneError: no such session or diagnosis.
            BusyError: too many wait.
        """
        session = self._sessions.get(session_id)
        if target is not None and target >= len(session.case.card.target_names):
            raise GoneError("the model has no such diagnosis", "place")
        record, outcome = record_of(session, self._model), session.outcome
        page = await self._drawing.run(lambda: print_record(record, session, outcome, target=target))
        return page, session.image.sha256
