"""The addresses of an image in full size and depth."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from csr.runtime.errors import InputError
from csr.serve.dependencies import Serves
from csr.serve.pixels import schemas
from csr.serve.pixels.cutting import MAX_FACTOR, Part, cut
from csr.serve.pixels.source import depth_facts, little_endian

_BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}
_MAX = 2**26
router = APIRouter(prefix="/sessions/{session}/depth")


@router.get("")
async def depth(session: str, service: Serves) -> schemas.Depth:
    """Return what makes grey levels of raw numbers: slope, intercept and windows of values."""
    return await service.of_depth(session, depth_facts)


@router.get("/shown", responses=_BYTES, response_class=Response)
async def shown(session: str, service: Serves) -> Response:
    """Return the grey level (one byte) of every raw number as the model sees it."""
    table = await service.of_depth(session, lambda depth: depth.shown_N.tobytes())
    return Response(table, media_type="application/octet-stream")


@router.get("/raw", responses=_BYTES, response_class=Response)
async def raw(
    session: str,
    service: Serves,
    x: Annotated[int, Query(ge=0, le=_MAX, description="left edge, pixels of the image")],
    y: Annotated[int, Query(ge=0, le=_MAX, description="upper edge")],
    width: Annotated[int, Query(ge=1, le=_MAX)],
    height: Annotated[int, Query(ge=1, le=_MAX)],
    reduce: Annotated[
        int, Query(ge=1, le=MAX_FACTOR, description="mean of blocks of so many pixels a side")
    ] = 1,
) -> Response:
    """Return the raw numbers of a part of the image, row by row, little endian, three a pixel in colour."""
    part = Part(x, y, width, height, reduce)
    try:
        slope, intercept, numbers = await service.of_depth(
            session, lambda depth: (depth.slope, depth.intercept, cut(depth, part))
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    rows, columns = numbers.shape[:2]
    headers = {
        "X-Width": str(columns),
        "X-Height": str(rows),
        "X-Bits": str(8 * numbers.itemsize),
        "X-Slope": repr(slope),
        "X-Intercept": repr(intercept),
    }
    return Response(little_endian(numbers), media_type="application/octet-stream", headers=headers)
