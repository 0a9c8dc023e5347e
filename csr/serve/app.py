"""The addresses of `csr serve`: page, API and OpenAPI document. Thin: `Service` does the work."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from csr import __version__
from csr.engine.device import is_broken_by
from csr.engine.memory import is_exhausted
from csr.runtime.errors import EXIT_FAILED, InputError, TooLargeError, line_of
from csr.serve import schemas
from csr.serve.access import Access, App, Shield
from csr.serve.dependencies import Revision, Serves, body_of
from csr.serve.limits import MAX_MAPS, MAX_STEPS
from csr.serve.open_sessions import Alive, AliveIn, GoneError
from csr.serve.pixels.routes import router as depth_routes
from csr.serve.records.routes import ROUTES as RECORD_ROUTES
from csr.serve.records.schemas import SessionState
from csr.serve.service import Service, running
from csr.serve.session import FullError, StaleError
from csr.serve.what_if import WhatIfs
from csr.serve.worker import BusyError

_STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PLACE = re.compile(r"(\d{1,6})\.(\d{1,6})")
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
_ABOUT = (
    "Open an image (POST /api/images), then put edits in force (PUT .../edits). Every answer about a session "
    "is its whole state. A change may name the revision that it starts from (X-Revision). Where a token was "
    "set, everything below /api/ wants `Authorization: Bearer TOKEN`."
)


def create_app(service: Service, access: Access) -> App:
    """Return the whole application, shielded.

    Args:
        service: computes the answers.
        access: rules on who may ask.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running(service):
            yield

    app = FastAPI(
        title="csr serve",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.service = service
    app.include_router(_static_files(), include_in_schema=False)
    app.include_router(_API)
    app.include_router(RECORD_ROUTES, prefix=_API.prefix, responses=_PROBLEMS)
    _add_error_handlers(app)
    return Shield(app, access)


def _static_files() -> APIRouter:
    """Return the page's files, read once: no request ever becomes a path."""
    router = APIRouter()
    files = {path.name: path.read_bytes() for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}

    async def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return Response(files[name], media_type=_TYPES[Path(name).suffix])

    async def page() -> Response:
        return await file("index.html")

    router.add_api_route("/", page, methods=["GET", "HEAD"])
    router.add_api_route("/static/{name}", file, methods=["GET", "HEAD"])
    return router


def _add_error_handlers(app: FastAPI) -> None:
    """Make every refusal a status and one line, `detail`; nothing that was sent comes back in it."""

    def add(
        kind: type[Exception],
        status: int,
        detail: str | None,
        headers: dict[str, str] | None = None,
        *,
        reason: str | None = None,
    ) -> None:
        def handler(_: Request, error: Exception) -> Response:
            why = getattr(error, "reason", reason)
            problem = {"detail": detail or str(error), **({} if why is None else {"reason": why})}
            return JSONResponse(problem, status, headers)

        app.add_exception_handler(kind, handler)

    full = f"the record has {MAX_STEPS} steps: download it and open the image again"
    stale = "this image was changed in another tab or window: reload to see how it is; nothing was changed"
    add(BusyError, 503, "the server is busy: try again in a moment", {"Retry-After": "1"})
    add(GoneError, 404, None)
    add(FullError, 409, full, reason="full")
    add(StaleError, 409, stale, reason="revision")
    add(TooLargeError, 413, None)
    add(InputError, 422, None)
    app.add_exception_handler(RuntimeError, _answer_lost_device)
    app.add_exception_handler(RequestValidationError, _answer_invalid)


def _answer_lost_device(request: Request, error: Exception) -> Response:
    """Refuse; end the server after an error that leaves no call of this process a usable GPU."""
    if is_exhausted(error):
        detail = "no memory is left for this image: close others, or let --device cpu or another GPU serve"
        return JSONResponse({"detail": detail}, 503, {"Retry-After": "10"})
    if not is_broken_by(error):
        raise error
    sys.stderr.write(line_of(EXIT_FAILED, f"the GPU failed, the server ends: {str(error).splitlines()[0]}"))
    request.app.state.service.failed = True
    os.kill(os.getpid(), signal.SIGTERM)
    detail = "the GPU failed: the server ends, and answers again once it was restarted"
    return JSONResponse({"detail": detail}, 503)


def _answer_invalid(_: Request, error: Exception) -> Response:
    """Name the first wrong field of a request and what is wrong with it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part)[:40] for part in first["loc"])
    return JSONResponse({"detail": f"{field}: {first['msg'][:200]}"}, 422)


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (401, 403, 404, 409, 413, 421, 422, 503)
}
_API = APIRouter(prefix="/api", responses=_PROBLEMS)
_API.include_router(depth_routes)


@_API.get("/model")
async def model(service: Serves) -> schemas.ModelFacts:
    """Return names, limits and what the model can do."""
    return service.facts


@_API.post(
    "/images",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def open_image(request: Request, service: Serves) -> SessionState:
    """Open an image: the body is the file (PNG, JPEG, DICOM), X-Image-Name its name, percent-encoded."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/octet-stream":
        raise HTTPException(415, "send the file as application/octet-stream")
    with service.receiving():
        data = await body_of(request, service)
        name = unquote(request.headers.get("x-image-name", "")[:2000], errors="replace")
        return await service.open_image(data, name=name)


@_API.post("/alive")
async def alive(page: AliveIn, service: Serves) -> Alive:
    """Keep the images of a page that is open; say which are gone, and why."""
    return service.sessions.hold(page.sessions)


@_API.get("/sessions/{session}")
async def state(session: str, service: Serves) -> SessionState:
    """Return the session as it is."""
    return service.sessions.get(session).state()


@_API.put("/sessions/{session}/edits")
async def edit(
    session: str, edits: schemas.EditsIn, service: Serves, revision: Revision = None
) -> SessionState:
    """Put edits in force in place of those that were; the network does not run again."""
    return await service.edit(session, edits, revision=revision)


@_API.post("/sessions/{session}/undo")
async def undo(session: str, service: Serves, revision: Revision = None) -> SessionState:
    """Go back one step; at the first one nothing happens."""
    return service.move(session, "undo", revision=revision)


@_API.post("/sessions/{session}/redo")
async def redo(session: str, service: Serves, revision: Revision = None) -> SessionState:
    """Go forward one step; at the last one nothing happens."""
    return service.move(session, "redo", revision=revision)


@_API.post("/sessions/{session}/reset")
async def reset(session: str, service: Serves, revision: Revision = None) -> SessionState:
    """Drop all edits, as a step that can be undone."""
    return await service.reset(session, revision=revision)


@_API.get("/sessions/{session}/what_if/{target}")
async def what_if(session: str, target: int, service: Serves) -> WhatIfs:
    """Return the smallest sets of decisions on concepts that change whether a diagnosis is called."""
    return await service.what_if(session, target)


@_API.delete("/sessions/{session}", status_code=204)
async def close(session: str, service: Serves) -> Response:
    """Forget the image at once."""
    service.sessions.close(session)
    return Response(status_code=204)


@_API.get("/sessions/{session}/image", responses=_PNG, response_class=Response)
async def image(session: str, service: Serves) -> Response:
    """Return the displayed image, reduced."""
    return Response(service.sessions.get(session).view, media_type="image/png")


@_API.get("/sessions/{session}/maps")
async def maps(
    session: str,
    service: Serves,
    of: Annotated[list[str], Query(max_length=MAX_MAPS, description="concept.prototype, e.g. 3.0")],
) -> schemas.Maps:
    """Return similarity maps under the boxes in force."""
    matches = [_PLACE.fullmatch(one) for one in of]
    places = [(int(match[1]), int(match[2])) for match in matches if match is not None]
    if len(places) < len(of):
        raise HTTPException(422, "of: give concept.prototype, such as 3.0")
    return await service.maps(session, places)


@_API.get("/sessions/{session}/concepts/{concept}")
async def prototypes(session: str, concept: int, service: Serves) -> schemas.Prototypes:
    """Return every prototype of a concept, with its score and contributions under the edits in force."""
    return service.prototypes(session, concept)


@_API.get("/regions/{concept}/{prototype}")
async def regions(concept: int, prototype: int, service: Serves) -> list[schemas.Region]:
    """Return the training regions nearest to a prototype; none without an atlas."""
    return service.regions(concept, prototype)


@_API.get("/regions/{concept}/{prototype}/{rank}", responses=_PNG, response_class=Response)
async def region(concept: int, prototype: int, rank: int, service: Serves) -> Response:
    """Return the training image with that region framed."""
    picture = await service.region(concept, prototype, rank)
    if picture is None:
        raise HTTPException(404, "the training image is not there, or cannot be read")
    return Response(picture, media_type="image/png")
