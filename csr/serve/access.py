"""Who may ask, and how much may be sent: checked before anything else sees a request (ASGI).

A page of another site must be able to do nothing here, also where its name was made to point at this server
(DNS rebinding): so the Host header is checked, requests of other origins are refused, and no CORS header is
ever sent. A token goes in a header and never in a cookie, which a browser would send by itself.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from csr.serve.limits import JSON_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

API, UPLOAD = "/api/", "/api/images"
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": _CONTENT_POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        names: Host names that are this server, besides `localhost`; lower case.
        any_address: whether a Host that is an IP address is taken, whichever; else loopback ones only.
        token: asked for by everything below /api/; None: nothing is.
        max_bytes: of an upload.
    """

    names: Collection[str] = ()
    any_address: bool = False
    token: str | None = field(default=None, repr=False)
    max_bytes: int = 2**26

    def problem(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason of a request that is refused, None for the others."""
        host = headers.get("host", "")
        if not self.knows(host_name(host)):
            return 421, "this server does not answer to that Host; start it with --allow_host NAME"
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return 403, "requests of other sites are refused"
        if not path.startswith(API):
            return None
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "requests of other sites are refused"
        if self.token is not None and not self._is_token(headers.get("authorization", "")):
            return 401, "a token is needed"
        return None

    def _is_token(self, authorization: str) -> bool:
        kind, _, given = authorization.partition(" ")
        assert self.token is not None
        same = hmac.compare_digest(given.strip().encode("latin-1"), self.token.encode())
        return same and kind.lower() == "bearer"

    def knows(self, name: str) -> bool:
        """Whether a Host name is this server. Rebinding needs a name, so addresses are harmless."""
        if name == "localhost" or name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


class Shield:
    """Refuses what `Access` refuses, bounds bodies, and puts security headers on every answer.

    Args:
        app: what is shielded.
        access: who may ask.
    """

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, doubled = _headers(scope["headers"])
        told = _with_headers(send)
        problem = (
            (400, "a header is there twice") if doubled else self._access.problem(scope["path"], headers)
        )
        if problem is not None:
            await _refuse(told, *problem)
            return
        limit = self._access.max_bytes if scope["path"] == UPLOAD else JSON_BYTES
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            await _refuse(told, 413, _too_large(limit))
            return
        await self._app(scope, _bounded(receive, limit), told)


def _headers(raw: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], bool]:
    """Headers by lower-case name, and whether one that decides something is there twice."""
    found: dict[str, str] = {}
    doubled = False
    for name, value in raw:
        key = name.decode("latin-1").lower()
        doubled |= key in found and key in ("host", "origin", "authorization", "content-length")
        found[key] = value.decode("latin-1")
    return found, doubled


def _with_headers(send: Send) -> Send:
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (k, v) for k, v in message.get("headers", []) if k.decode("latin-1").lower() not in HEADERS
            ]
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return told


def _bounded(receive: Receive, limit: int) -> Receive:
    """Counts a body that did not say, or lied about, how long it is."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return counted


def _too_large(limit: int) -> str:
    return f"more than {limit / 2**20:.4g} MiB were sent"


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
