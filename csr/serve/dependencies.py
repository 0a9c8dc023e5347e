"""What the addresses take from a request besides their own parameters."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Header, Request
from starlette.exceptions import HTTPException

from csr.serve.service import Service


def get_service(request: Request) -> Service:
    """Return the service of the application that a request reached."""
    return request.app.state.service


Serves = Annotated[Service, Depends(get_service)]
Revision = Annotated[
    int | None,
    Header(
        alias="X-Revision",
        ge=0,
        description="of the state that the change starts from; refused (409) where it is not the last one. "
        "Without it the change is made to whatever state there is",
    ),
]


async def body_of(request: Request, service: Service) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 408, it did not arrive in time.
    """
    try:
        return await asyncio.wait_for(request.body(), service.limits.receive_s)
    except asyncio.TimeoutError:
        raise HTTPException(408, "the file did not arrive in time") from None
