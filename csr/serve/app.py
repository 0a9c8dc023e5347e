"""The addresses of `csr serve`: page, API and OpenAPI document. Thin: `Service` does the work."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from csr import __version__
from csr.runtime.errors import InputError, TooLargeError
from csr.serve import schemas
from csr.serve.access import Access, App, Shield
from csr.serve.case import default_replacement
from csr.serve.edits import EditSet
from csr.serve.limits import MAX_MAPS, MAX_STEPS
from csr.serve.payload import EditsIn
from csr.serve.service import Service, running
from csr.serve.session import FullError, GoneError
from csr.serve.worker import BusyError

_STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PLACE = re.compile(r"(\d{1,6})\.(\d{1,6})")
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
_ABOUT = (
    "Open an image (POST /api/images), then put edits in force (PUT .../edits). Every answer about a session "
    "is its whole state. Where a token was set, everything below /api/ wants `Authorization: Bearer TOKEN`."
)


def create_app(service: Service, access: Access) -> App:
    """The whole application, shielded.

    Args:
        service: what computes.
        access: who may ask.
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
    _tell_errors(app)
    return Shield(app, access)


def _static_files() -> APIRouter:
    """The page's files, read once: no request ever becomes a path."""
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


def _tell_errors(app: FastAPI) -> None:
    """Every refusal is a status and one line, `detail`; nothing that was sent comes back in it."""

    def add(
        kind: type[Exception], status: int, detail: str | None, headers: dict[str, str] | None = None
    ) -> None:
        def handler(_: Request, error: Exception) -> Response:
            return JSONResponse({"detail": detail or str(error)}, status, headers)

        app.add_exception_handler(kind, handler)

    add(BusyError, 503, "the server is busy: try again in a moment", {"Retry-After": "1"})
    add(GoneError, 404, "not open (any more): open the image again")
    add(FullError, 409, f"the record has {MAX_STEPS} steps: download it and open the image again")
    add(TooLargeError, 413, None)
    add(InputError, 422, None)
    app.add_exception_handler(RequestValidationError, _tell_invalid)


def _tell_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    return JSONResponse({"detail": f"{where}: {first['msg'][:200]}"}, 422)


def get_service(request: Request) -> Service:
    """The service of the application that a request reached."""
    return request.app.state.service


Serves = Annotated[Service, Depends(get_service)]
_API = APIRouter(
    prefix="/api",
    responses={status: {"model": schemas.Problem} for status in (401, 403, 404, 409, 413, 421, 422, 503)},
)


@_API.get("/model", responses={200: {"model": schemas.ModelOut}})
async def model(service: Serves) -> Response:
    """Names, limits and what the model can do."""
    return JSONResponse(service.described)


@_API.post(
    "/images",
    status_code=201,
    responses={201: {"model": schemas.State}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def open_image(request: Request, service: Serves) -> Response:
    """Open an image: the body is the file (PNG, JPEG, DICOM), X-Image-Name its name, percent-encoded."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/octet-stream":
        raise HTTPException(415, "send the file as application/octet-stream")
    with service.receiving():
        try:
            data = await asyncio.wait_for(request.body(), service.limits.receive_s)
        except asyncio.TimeoutError:
            raise HTTPException(408, "the image did not arrive in time") from None
        name = unquote(request.headers.get("x-image-name", "")[:2000], errors="replace")
        return JSONResponse(await service.open_image(data, name=name), 201)


@_API.get("/sessions/{session}", responses={200: {"model": schemas.State}})
async def state(session: str, service: Serves) -> Response:
    """The session as it is."""
    return JSONResponse(service.sessions.get(session).answer())


@_API.put("/sessions/{session}/edits", responses={200: {"model": schemas.State}})
async def edit(session: str, edits: EditsIn, service: Serves) -> Response:
    """Put edits in force in place of those that were; the network does not run again."""
    assert service.model.card is not None
    names, default = service.model.card.concept_names, default_replacement(service.model)
    try:
        wanted: EditSet = edits.edit_set(names, default=default)
        return JSONResponse(await service.edit(session, wanted))
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


@_API.post("/sessions/{session}/undo", responses={200: {"model": schemas.State}})
async def undo(session: str, service: Serves) -> Response:
    """Go back one step; at the first one nothing happens."""
    return JSONResponse(service.move(session, "undo"))


@_API.post("/sessions/{session}/redo", responses={200: {"model": schemas.State}})
async def redo(session: str, service: Serves) -> Response:
    """Go forward one step; at the last one nothing happens."""
    return JSONResponse(service.move(session, "redo"))


@_API.post("/sessions/{session}/reset", responses={200: {"model": schemas.State}})
async def reset(session: str, service: Serves) -> Response:
    """Leave out all edits, as a step that can be undone."""
    return JSONResponse(await service.reset(session))


@_API.delete("/sessions/{session}", status_code=204)
async def close(session: str, service: Serves) -> Response:
    """Forget the image at once."""
    service.sessions.close(session)
    return Response(status_code=204)


@_API.get("/sessions/{session}/record", responses={200: {"model": schemas.Record}})
async def record(session: str, service: Serves) -> Response:
    """The record: hashes of model and image, every step with its time, edits and result."""
    told = service.record(session)
    # the name is the server's: what an upload is called becomes no file name and no header
    name = f"csr-session-{told['image']['sha256'][:12]}.json"
    return JSONResponse(told, headers={"Content-Disposition": f'attachment; filename="{name}"'})


@_API.get("/sessions/{session}/image", responses=_PNG, response_class=Response)
async def image(session: str, service: Serves) -> Response:
    """The image as it is displayed, reduced."""
    return Response(service.sessions.get(session).view, media_type="image/png")


@_API.get("/sessions/{session}/maps", responses={200: {"model": schemas.Maps}})
async def maps(
    session: str,
    service: Serves,
    of: Annotated[list[str], Query(max_length=MAX_MAPS, description="concept.prototype, e.g. 3.0")],
) -> Response:
    """Similarity maps under the boxes in force."""
    found = [_PLACE.fullmatch(one) for one in of]
    places = [(int(one[1]), int(one[2])) for one in found if one is not None]
    if len(places) < len(of):
        raise HTTPException(422, "of: give concept.prototype, such as 3.0")
    return JSONResponse(await service.maps(session, places))


@_API.get("/sessions/{session}/concepts/{concept}", responses={200: {"model": schemas.Prototypes}})
async def prototypes(session: str, concept: int, service: Serves) -> Response:
    """Every prototype of a concept, with its score and contributions under the edits in force."""
    return JSONResponse(service.prototypes(session, concept))


@_API.get("/regions/{concept}/{prototype}", responses={200: {"model": list[schemas.Region]}})
async def regions(concept: int, prototype: int, service: Serves) -> Response:
    """The training regions nearest to a prototype; none without an atlas."""
    service.check_place(concept, prototype)
    return JSONResponse(service.regions.told(concept, prototype))


@_API.get("/regions/{concept}/{prototype}/{rank}", responses=_PNG, response_class=Response)
async def region(concept: int, prototype: int, rank: int, service: Serves) -> Response:
    """The training image with that region framed."""
    picture = await service.region(concept, prototype, rank)
    if picture is None:
        raise HTTPException(404, "the training image is not there, or cannot be read")
    return Response(picture, media_type="image/png")
