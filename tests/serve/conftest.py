"""A served tiny model: its service, and a client that talks to it without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving import BASE, Client
from tiny_model import tiny_model

from csr.model import CSR

pytest.importorskip("fastapi", reason="the extra is not installed: pip install -e .[serve]")
pytest.importorskip("uvicorn", reason="the extra is not installed: pip install -e .[serve]")


@pytest.fixture(scope="session")
def model() -> CSR:
    return tiny_model()


@pytest.fixture(scope="session")
def serve(model: CSR) -> Callable[..., Any]:
    """Return a function that makes a context manager: a client of a server with limits, token, .."""
    from starlette.testclient import TestClient

    from csr.serve.access import Access
    from csr.serve.app import create_app
    from csr.serve.limits import Limits
    from csr.serve.service import Service

    def build(limits: Limits | None = None, *, neighbours: Any = None, **access: Any) -> Any:
        limits = limits or Limits()
        service = Service(model, name="tiny", limits=limits, neighbours=neighbours)
        shielded = create_app(service, Access(max_bytes=limits.max_bytes, **access))
        client = TestClient(shielded, base_url=BASE)
        client.service = service
        return client

    return build


@pytest.fixture(scope="module")
def client(serve: Callable[..., Any]) -> Iterator[Client]:
    with serve() as one:
        yield one
