"""The addresses of a session's record: notes, download, printed page, replay."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from csr.serve.dependencies import Revision, Serves, body_of
from csr.serve.records.schemas import Notes, Record, Replay, SessionState

_HTML: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {}}}}
ROUTES = APIRouter(prefix="/sessions/{session}")


def _name(sha256: str, ending: str) -> dict[str, str]:
    """Return the header that names a download, not by what the upload is called: that becomes no header."""
    return {"Content-Disposition": f'attachment; filename="csr-session-{sha256[:12]}.{ending}"'}


@ROUTES.put("/notes")
async def notes(session: str, notes: Notes, service: Serves, revision: Revision = None) -> SessionState:
    """Put the reader's name, comment and conclusion in place of those that were."""
    return service.records.write(session, notes, revision=revision)


@ROUTES.get("/record")
async def record(session: str, service: Serves, response: Response) -> Record:
    """Return the record: hashes of model and image, every step with its time, edits and result."""
    answer = service.records.download(session)
    response.headers.update(_name(answer.image.sha256, "json"))
    return answer


@ROUTES.get("/record.html", responses=_HTML, response_class=Response)
async def printed(
    session: str,
    service: Serves,
    target: Annotated[
        int | None, Query(ge=0, description="the diagnosis that maps are shown for; the chosen one")
    ] = None,
) -> Response:
    """Return the record as a page to print, with everything in it."""
    page, sha256 = await service.records.page(session, target)
    return Response(page.encode(), media_type="text/html", headers=_name(sha256, "html"))


@ROUTES.post(
    "/replay",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
)
async def replay(session: str, request: Request, service: Serves, revision: Revision = None) -> Replay:
    """Replay a record of the same image and model: its steps take the place of the session's."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send the record as application/json")
    with service.records.replaying():
        return await service.records.replay(session, await body_of(request, service), revision=revision)
