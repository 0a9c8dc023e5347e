"""What the page asks for, without HTTP: images opened, edited, undone, recorded, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np

from csr.explain.neighbours import Neighbours
from csr.model import CSR
from csr.serve.answers import tell_maps, tell_model, tell_prototypes
from csr.serve.case import Case, Outcome
from csr.serve.edits import EditSet
from csr.serve.limits import Limits
from csr.serve.record import model_sha256, record_of
from csr.serve.regions import Regions
from csr.serve.session import GoneError, ImageFacts, Session, Sessions
from csr.serve.upload import Upload, read_upload
from csr.serve.worker import BusyError, Worker

SWEEP_S = 15.0
Answer = dict[str, Any]


class Service:
    """One model, the images that are open, and the threads that compute.

    Args:
        model: in eval mode, with a card, on its device.
        name: of the model, as shown and recorded.
        limits: of the server.
        neighbours: training regions; None without an atlas.
    """

    def __init__(
        self, model: CSR, *, name: str, limits: Limits, neighbours: Neighbours | None = None
    ) -> None:
        assert model.card is not None
        self.model, self.name, self.limits = model, name, limits
        self.sha256 = model_sha256(model)
        self.size = model.card.preprocessing.stored_size
        self.regions = Regions(neighbours or {})
        self.sessions = Sessions(limits)
        self.described = tell_model(
            model, name=name, sha256=self.sha256, limits=limits, has_atlas=neighbours is not None
        )
        self._receiving = threading.BoundedSemaphore(limits.uploads)
        self._uploads = Worker("csr-network", places=limits.uploads)
        self._edits = Worker("csr-edits", places=limits.edits)  # never waits for another image's network
        self._pictures = Worker("csr-pictures", places=limits.edits)

    def warm_up(self) -> None:
        """Run the network once: what comes first is slow, and what cannot run should say so at the start."""
        Case(self.model, np.zeros((1, self.size, self.size), dtype=np.uint8))

    async def close_unused(self) -> None:
        """Close sessions that timed out, for ever: images leave the memory without anyone asking."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sessions.close_unused()

    def close(self) -> None:
        for worker in (self._uploads, self._edits, self._pictures):
            worker.close()

    @contextlib.contextmanager
    def receiving(self) -> Iterator[None]:
        """Holds a place while an upload arrives and is computed; its bytes are in memory all that time.

        Raises:
            BusyError: no place is free.
        """
        if not self._receiving.acquire(blocking=False):
            raise BusyError
        try:
            yield
        finally:
            self._receiving.release()

    async def open_image(self, data: bytes, *, name: str) -> Answer:
        """Decode, run the network, start a session.

        Raises:
            BusyError: too many wait.
            TooLargeError, InputError: see `read_upload`.
        """
        session = await self._uploads.run(lambda: self._opened(data, name))
        self.sessions.add(session)
        return session.answer()

    def _opened(self, data: bytes, name: str) -> Session:
        upload: Upload = read_upload(data, name=name, size=self.size, max_pixels=self.limits.max_pixels)
        case = Case(self.model, upload.pixels_CSS)
        first = case.diagnose(case.unedited)
        return Session(ImageFacts.of(upload), view=upload.view, case=case, first=first)

    async def edit(self, session_id: str, edits: EditSet) -> Answer:
        """Put new edits in force.

        Raises:
            GoneError, FullError, BusyError.
            ValueError: edits that mean nothing.
        """
        return await self._apply(self.sessions.get(session_id), edits, action="edit")

    async def reset(self, session_id: str) -> Answer:
        """Leave out all edits; a step of its own, which can be undone.

        Raises:
            GoneError, FullError, BusyError.
        """
        session = self.sessions.get(session_id)
        return await self._apply(session, session.case.unedited, action="reset")

    async def _apply(self, session: Session, edits: EditSet, *, action: str) -> Answer:
        if edits != session.edits:
            session.check_open()
            outcome: Outcome = await self._edits.run(lambda: session.case.diagnose(edits))
            session.edit(outcome, action=action)
        return session.answer()

    def move(self, session_id: str, action: str) -> Answer:
        """`undo` or `redo`.

        Raises:
            GoneError, FullError.
        """
        session = self.sessions.get(session_id)
        session.check_open()
        session.move(action)
        return session.answer()

    async def maps(self, session_id: str, places: list[tuple[int, int]]) -> Answer:
        """Maps of prototypes after the boxes.

        Raises:
            GoneError: no such session, concept or prototype.
            BusyError: too many wait.
        """
        session = self.sessions.get(session_id)
        for k, m in places:
            self.check_place(k, m)
        edits = session.edits
        return await self._edits.run(lambda: tell_maps(places, session.case.maps(edits, places)))

    def prototypes(self, session_id: str, k: int) -> Answer:
        """All prototypes of a concept. Raises GoneError."""
        session = self.sessions.get(session_id)
        self.check_place(k, 0)
        return tell_prototypes(session.case, session.outcome.explanation, k)

    async def region(self, k: int, m: int, rank: int) -> bytes | None:
        """A training region's picture, None if it is gone.

        Raises:
            GoneError: no such concept or prototype.
            BusyError: too many wait.
        """
        self.check_place(k, m)
        return await self._pictures.run(lambda: self.regions.picture(k, m, rank))

    def record(self, session_id: str) -> Answer:
        """Raises GoneError."""
        return record_of(self.sessions.get(session_id), model_name=self.name, model_sha256=self.sha256)

    def check_place(self, k: int, m: int) -> None:
        """Raise GoneError unless the model has concept k with a prototype m."""
        if not (0 <= k < self.model.num_concepts and 0 <= m < self.model.num_prototypes_per_concept):
            raise GoneError


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """The service while a server runs."""
    sweeper = asyncio.create_task(service.close_unused())
    try:
        yield
    finally:
        sweeper.cancel()
        await asyncio.to_thread(service.close)
