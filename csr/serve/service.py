"""The work behind the page, without HTTP: images opened, edited, undone, recorded, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Literal

import numpy as np

from csr.explain.neighbours import Neighbours
from csr.model import CSR
from csr.serve.answers import image_facts, maps_of, model_facts, prototypes_of
from csr.serve.case import Case, Outcome, default_replacement
from csr.serve.edits import checked_edits
from csr.serve.limits import Limits
from csr.serve.record import model_sha256, record_of
from csr.serve.regions import Regions
from csr.serve.schemas import Edits, EditsIn, Maps, ModelName, Prototypes, Record, Region, State
from csr.serve.session import GoneError, Session, Sessions
from csr.serve.upload import Upload, read_upload
from csr.serve.worker import BusyError, Worker

SWEEP_S = 15.0


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
        self.model, self.card, self.limits = model, model.card, limits
        self.sha256 = model_sha256(model)
        self.sessions = Sessions(limits)
        self.facts = model_facts(
            model, name=name, sha256=self.sha256, limits=limits, has_atlas=neighbours is not None
        )
        self._preprocessing = model.card.preprocessing
        self._regions = Regions(neighbours or {})
        self._receiving = threading.BoundedSemaphore(limits.uploads)
        self._uploads = Worker("csr-network", places=limits.uploads)
        self._edits = Worker("csr-edits", places=limits.edits)  # never waits for another image's network
        self._pictures = Worker("csr-pictures", places=limits.edits)

    def warm_up(self) -> None:
        """Run the network once: the first run is slow, and a model that cannot run should fail at once."""
        side = self._preprocessing.stored_size
        Case(self.model, np.zeros((1, side, side), dtype=np.uint8))

    async def close_unused(self) -> None:
        """Close sessions that timed out, for ever: images leave the memory without a request."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sessions.close_unused()

    def close(self) -> None:
        """Wait for what is being computed, and drop what waits."""
        for worker in (self._uploads, self._edits, self._pictures):
            worker.close()

    @contextlib.contextmanager
    def receiving(self) -> Iterator[None]:
        """Hold a place while an upload arrives and is computed; its bytes are in memory all that time.

        Raises:
            BusyError: no place is free.
        """
        if not self._receiving.acquire(blocking=False):
            raise BusyError
        try:
            yield
        finally:
            self._receiving.release()

    async def open_image(self, data: bytes, *, name: str) -> State:
        """Decode an image, run the network, start a session.

        Args:
            data: the file's bytes, not trusted.
            name: the sender's name of it.

        Raises:
            BusyError: too many wait.
            TooLargeError, InputError: see `read_upload`.
        """
        session = await self._uploads.run(lambda: self._opened(data, name))
        self.sessions.add(session)
        return session.state()

    def _opened(self, data: bytes, name: str) -> Session:
        upload: Upload = read_upload(
            data,
            name=name,
            size=self._preprocessing.stored_size,
            max_pixels=self.limits.max_pixels,
            resize=self._preprocessing.resize,
        )
        case = Case(self.model, upload.pixels_CSS, frame=upload.frame)
        first = case.diagnose(case.unedited)
        return Session(image_facts(upload), view=upload.view, case=case, first=first)

    async def edit(self, session_id: str, sent: EditsIn) -> State:
        """Put new edits in force.

        Raises:
            InputError: see `checked_edits`.
            GoneError, FullError, BusyError: no such session, its record is full, too many wait.
        """
        session = self.sessions.get(session_id)
        edits = checked_edits(
            sent,
            self.card.concept_names,
            default=default_replacement(self.model),
            frame=session.case.frame,
        )
        return await self._apply(session, edits, action="edit")

    async def reset(self, session_id: str) -> State:
        """Drop all edits, as a step that can be undone.

        Raises:
            GoneError, FullError, BusyError: see `edit`.
        """
        session = self.sessions.get(session_id)
        return await self._apply(session, session.case.unedited, action="reset")

    async def _apply(self, session: Session, edits: Edits, *, action: Literal["edit", "reset"]) -> State:
        if edits != session.edits:
            session.check_open()
            outcome: Outcome = await self._edits.run(lambda: session.case.diagnose(edits))
            session.edit(outcome, action=action)
        return session.state()

    def move(self, session_id: str, action: Literal["undo", "redo"]) -> State:
        """Move one step in the history.

        Raises:
            GoneError, FullError: see `edit`.
        """
        session = self.sessions.get(session_id)
        session.check_open()
        session.move(action)
        return session.state()

    async def maps(self, session_id: str, places: list[tuple[int, int]]) -> Maps:
        """Return maps of prototypes, (concept, prototype) each, after the boxes in force.

        Raises:
            GoneError: no such session, concept or prototype.
            BusyError: too many wait.
        """
        session = self.sessions.get(session_id)
        for k, m in places:
            self._check_place(k, m)
        edits = session.edits
        return await self._edits.run(lambda: maps_of(session.case, places, session.case.maps(edits, places)))

    def prototypes(self, session_id: str, k: int) -> Prototypes:
        """Return all prototypes of concept k under the edits in force.

        Raises:
            GoneError: no such session or concept.
        """
        session = self.sessions.get(session_id)
        self._check_place(k, 0)
        return prototypes_of(session.case, session.outcome.explanation, k)

    def regions(self, k: int, m: int) -> list[Region]:
        """Return the training regions nearest to prototype m of concept k.

        Raises:
            GoneError: no such concept or prototype.
        """
        self._check_place(k, m)
        return self._regions.nearest(k, m)

    async def region(self, k: int, m: int, rank: int) -> bytes | None:
        """Return a training region's picture (PNG), None if it is gone.

        Raises:
            GoneError: no such concept or prototype.
            BusyError: too many wait.
        """
        self._check_place(k, m)
        return await self._pictures.run(lambda: self._regions.picture(k, m, rank))

    def record(self, session_id: str) -> Record:
        """Return the record of a session.

        Raises:
            GoneError: no such session.
        """
        model = ModelName(name=self.facts.name, sha256=self.sha256)
        return record_of(self.sessions.get(session_id), model)

    def _check_place(self, k: int, m: int) -> None:
        """Raise GoneError unless the model has a concept k with a prototype m."""
        if not (0 <= k < self.model.num_concepts and 0 <= m < self.model.num_prototypes_per_concept):
            raise GoneError


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """Run the service's clean-up while a server runs, and close it at the end."""
    sweeper = asyncio.create_task(service.close_unused())
    try:
        yield
    finally:
        sweeper.cancel()
        await asyncio.to_thread(service.close)
