"""A served tiny model: its service, a client that needs no network, and its page in a Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import HOSTILE, WAIT_MS, run_server
from serving import BASE, Client, png
from tiny_model import K, M, tiny_model

from csr.explain.neighbours import Neighbour
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
    from csr.serve.edit_warnings import NOT_MEASURED, EditWarnings
    from csr.serve.limits import Limits
    from csr.serve.service import Service

    def build(
        limits: Limits | None = None,
        *,
        neighbours: Any = None,
        show_ids: bool = False,
        warnings: EditWarnings = NOT_MEASURED,
        of: CSR = model,
        **access: Any,
    ) -> Any:
        limits = limits or Limits()
        service = Service(
            of, name="tiny", limits=limits, neighbours=neighbours, show_ids=show_ids, warnings=warnings
        )
        shielded = create_app(service, Access(max_bytes=limits.max_bytes, **access))
        client = TestClient(shielded, base_url=BASE)
        client.service = service
        return client

    return build


@pytest.fixture(scope="module")
def client(serve: Callable[..., Any]) -> Iterator[Client]:
    with serve() as one:
        yield one


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    installed = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as engines:
        if not Path(engines.chromium.executable_path).is_file() and installed is None:
            pytest.skip("no Chromium: run `playwright install chromium` or install the system's package")
        own = Path(engines.chromium.executable_path).is_file()
        browser = engines.chromium.launch(
            executable_path=None if own else installed, args=["--no-sandbox"], timeout=WAIT_MS
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(serve, tmp_path_factory):
    file = tmp_path_factory.mktemp("atlas") / "near.png"
    file.write_bytes(png(seed=9))
    near = {(k, m): [Neighbour(file, (0.1, 0.1, 0.6, 0.6), 0.9)] for k in range(K) for m in range(M)}
    address, stop = run_server(serve(neighbours=near).app)
    yield address
    stop()


@pytest.fixture
def page(browser, address, tmp_path):
    context = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.problems, page.asked, page.stays = [], [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "console",
        lambda m: (
            page.problems.append(m.text) if m.type == "error" and "TrustedScript" not in m.text else None
        ),
    )
    page.on("dialog", lambda dialog: on_dialog(page, dialog))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    yield page
    assert page.problems == []
    assert all(url.startswith((address, "blob:")) for url in page.asked)
    context.close()


def on_dialog(page, dialog):
    """Leave where the browser asks whether to, and note that it did; no other dialog is expected."""
    (page.stays if dialog.type == "beforeunload" else page.problems).append(dialog.message or "a question")
    dialog.accept()


@pytest.fixture
def image(tmp_path):
    (tmp_path / HOSTILE).write_bytes(png())
    return tmp_path / HOSTILE
