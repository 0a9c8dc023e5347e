"""The work behind the page, without HTTP: images opened, edited, undone, recorded, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Literal, TypeVar

import numpy as np

from csr.data.images.full_depth import FullDepth
from csr.explain.neighbours import Neighbours
from csr.model import CSR
from csr.serve.answers import image_facts, maps_of, model_facts, prototypes_of
from csr.serve.case import Case, Outcome, default_replacement
from csr.serve.edit_warnings import NOT_MEASURED, EditWarnings
from csr.serve.edits import checked_edits
from csr.serve.limits import Limits
from csr.serve.open_sessions import GoneError, Sessions
from csr.serve.pixels.source import Decoded, Source
from csr.serve.records.record import model_sha256
from csr.serve.records.records import Records
from csr.serve.records.schemas import ModelName, SessionState
from csr.serve.regions import Regions
from csr.serve.schemas import Edits, EditsIn, Maps, Prototypes, Region
from csr.serve.session import Session
from csr.serve.upload import Upload, read_upload
from csr.serve.what_if import WhatIfs, what_would_change
from csr.serve.worker import Worker, place

SWEEP_S = 15.0
Answer = TypeVar("Answer")


class Service:
    """One model, the images that are open, and the threads that compute.

    Args:
        model: in eval mode, with a card, on its device.
        name: of the model, as shown and recorded.
        limits: of the server.
        neighbours: training regions; None without an atlas.
        show_ids: tell the names of training files.
        warnings: what edits did to diagnoses of the model.
    """

    def __init__(
        self,
        model: CSR,
        *,
        name: str,
        limits: Limits,
        neighbours: Neighbours | None = None,
        show_ids: bool = False,
        warnings: EditWarnings = NOT_MEASURED,
    ) -> None:
        assert model.card is not None
        self.failed = False  # for good: the server ends
        self.model, self.card, self.limits = model, model.card, limits
        self.sha256 = model_sha256(model)
        self.sessions = Sessions(limits)
        self.facts = model_facts(
            model,
            name=name,
            sha256=self.sha256,
            limits=limits,
            has_atlas=neighbours is not None,
            warnings=warnings,
        )
        self._preprocessing = model.card.preprocessing
        self._regions = Regions(neighbours or {}, show_ids=show_ids)
        self._decoded = Decoded()
        self._receiving = threading.BoundedSemaphore(limits.uploads)
        self._uploads = Worker("csr-network", places=limits.uploads)
        self._edits = Worker("csr-edits", places=limits.edits)  # never waits for another image's network
        self._pictures = Worker("csr-pictures", places=limits.edits)
        self.records = Records(
            self.sessions,
            ModelName(name=name, sha256=self.sha256),
            computing=self._edits,
            drawing=self._pictures,
        )

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

    def receiving(self) -> contextlib.AbstractContextManager[None]:
        """Hold a place while an upload arrives and is computed; its bytes are in memory all that time.

        Raises:
            BusyError: no place is free.
        """
        return place(self._receiving)

    async def open_image(self, data: bytes, *, name: str) -> SessionState:
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
        source = Source(data, max_pixels=self.limits.max_pixels)
        return Session(image_facts(upload), view=upload.view, case=case, first=first, source=source)

    async def edit(self, session_id: str, sent: EditsIn, *, revision: int | None = None) -> SessionState:
        """Put new edits in force.

        Args:
            session_id: of the image.
            sent: all edits that are to hold.
            revision: that they start from; None: whichever is the last one.

        Raises:
            InputError: see `checked_edits`.
            GoneError, StaleError: no such session, another change came first.
            FullError, BusyError: its record is full, too many wait.
        """
        session = self.sessions.get(session_id)
        session.check_revision(revision)
        edits = checked_edits(
            sent,
            self.card.concept_names,
            default=default_replacement(self.model),
            frame=session.case.frame,
        )
        return await self._apply(session, edits, action="edit", revision=revision)

    async def reset(self, session_id: str, *, revision: int | None = None) -> SessionState:
        """Drop all edits, as a step that can be undone.

        Raises:
            GoneError, StaleError, FullError, BusyError: see `edit`.
        """
        session = self.sessions.get(session_id)
        session.check_revision(revision)
        return await self._apply(session, session.case.unedited, action="reset", revision=revision)

    async def _apply(
        self, session: Session, edits: Edits, *, action: Literal["edit", "reset"], revision: int | None
    ) -> SessionState:
        if edits != session.edits:
            session.check_open()
            outcome: Outcome = await self._edits.run(lambda: session.case.diagnose(edits))
            session.check_revision(revision)  # another change may have come meanwhile
            session.edit(outcome, action=action)
        return session.state()

    def move(
        self, session_id: str, action: Literal["undo", "redo"], *, revision: int | None = None
    ) -> SessionState:
        """Move one step in the history.

        Raises:
            GoneError, StaleError, FullError: see `edit`.
        """
        session = self.sessions.get(session_id)
        session.check_revision(revision)
        session.check_open()
        session.move(action)
        return session.state()

    async def what_if(self, session_id: str, target: int) -> WhatIfs:
        """Return what would change whether a diagnosis is called.

        Raises:
            GoneError: no such session or diagnosis.
            BusyError: too many wait.
        """
        session = self.sessions.get(session_id)
        self._check_target(target)
        outcome = session.outcome
        return await self._edits.run(lambda: what_would_change(session.case, outcome, target))

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

    async def of_depth(self, session_id: str, call: Callable[[FullDepth], Answer]) -> Answer:
        """Return what a call makes of a session's image in full size and depth.

        Raises:
            GoneError, BusyError: see `edit`.
            Exception: any that the call raised.
        """
        source = self.sessions.get(session_id).source
        return await self._pictures.run(lambda: call(self._decoded.depth(source)))

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

    def _check_target(self, target: int) -> None:
        """Raise GoneError unless the model has a diagnosis of this number."""
        if not 0 <= target < len(self.card.target_names):
            raise GoneError("the model has no such diagnosis", "place")

    def _check_place(self, k: int, m: int) -> None:
        """Raise GoneError unless the model has a concept k with a prototype m."""
        if not (0 <= k < self.model.num_concepts and 0 <= m < self.model.num_prototypes_per_concept):
            raise GoneError("the model has no such concept or prototype", "place")


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """Run the service's clean-up while a server runs, and close it at the end."""
    sweeper = asyncio.create_task(service.close_unused())
    try:
        yield
    finally:
        sweeper.cancel()
        await asyncio.to_thread(service.close)
