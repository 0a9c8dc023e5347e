"""Access control and size limits, an ASGI layer that checks requests before anything else sees them.

A page of another site must be able to do nothing here, even if its name was made to point at this server (DNS
rebinding): so the Host header is checked, requests of other origins are refused, and no CORS header is ever
sent. A token goes in a header and never in a cookie, which a browser would send by itself. Starlette's
TrustedHostMiddleware compares names alone: it would refuse every address of `--host 0.0.0.0`.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from csr.serve.limits import JSON_BYTES, RECORD_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

API, UPLOAD, REPLAY = "/api/", "/api/images", "/replay"
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
    """The rules for requests.

    Attributes:
        names: Host names of this server besides `localhost`, lower case.
        any_address: accept any IP address as Host; else loopback addresses only.
        token: required by everything below /api/; None: no token is.
        max_bytes: of an upload.
    """

    names: Collection[str] = ()
    any_address: bool = False
    token: str | None = field(default=None, repr=False)
    max_bytes: int = 2**26

    def problem(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return status and reason if a request is refused, else None.

        Args:
            path: of the address.
            headers: by lower-case name.
        """
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
        scheme, _, token = authorization.partition(" ")
        assert self.token is not None
        same = hmac.compare_digest(token.strip().encode("latin-1"), self.token.encode())
        return same and scheme.lower() == "bearer"

    def knows(self, name: str) -> bool:
        """Return True for a Host name of this server. Rebinding needs a name, so addresses are harmless."""
        if name == "localhost" or name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


class Shield:
    """A layer that refuses what `Access` refuses, bounds bodies, and adds security headers to every answer.

    Args:
        app: the application behind it.
        access: the rules.
    """

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        headers, repeated = _headers(scope["headers"])
        problem = (400, "a header is repeated") if repeated else self._access.problem(scope["path"], headers)
        if problem is not None:
            await _refuse(send, *problem)
            return
        limit = self._access.max_bytes if scope["path"] == UPLOAD else JSON_BYTES
        if scope["path"].startswith(API) and scope["path"].endswith(REPLAY):
            limit = RECORD_BYTES
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            await _refuse(send, 413, _too_large(limit))
            return
        await self._app(scope, _bounded(receive, limit), send)


def _headers(raw: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], bool]:
    """Return headers by lower-case name, and whether one that `Access` decides by is repeated."""
    headers: dict[str, str] = {}
    repeated = False
    for name, value in raw:
        key = name.decode("latin-1").lower()
        repeated |= key in headers and key in ("host", "origin", "authorization", "content-length")
        headers[key] = value.decode("latin-1")
    return headers, repeated


def _with_headers(send: Send) -> Send:
    """Return `send` with the security headers put on every answer."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [
                (k, v) for k, v in message.get("headers", []) if k.decode("latin-1").lower() not in HEADERS
            ]
            security = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*own, *security]}
        await send(message)

    return send_with_headers


def _bounded(receive: Receive, limit: int) -> Receive:
    """Return `receive` with a count of the body, whose stated length may be absent or wrong."""
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
