"""The page of `csr serve` in a browser: what tests do on it, and read from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAIT_MS = 60_000
HOSTILE = "<img src=x onerror=alert(1)>.png"


def run_server(application: Any) -> tuple[str, Callable[[], None]]:
    """Run an application in a thread; return its address and a function that stops it."""
    import uvicorn

    from csr.cli.serve import listen

    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
        assert thread.is_alive()

    def stop() -> None:
        server.should_exit = True
        thread.join(60)

    return f"http://127.0.0.1:{listener.getsockname()[1]}/", stop


def open_image(page: Any, image: Path) -> None:
    page.set_input_files("#file", image)
    page.wait_for_selector("#prototypes tbody tr")


def probabilities(page: Any) -> dict[str, str]:
    """Return the percentages that the page shows, by diagnosis."""
    return dict(
        zip(
            page.locator(".diagnosis .name").all_inner_texts(),
            page.locator(".diagnosis .value").all_inner_texts(),
            strict=True,
        )
    )


def state(page: Any, address: str) -> dict[str, Any]:
    """Return the state of the page's session, as the server has it."""
    session = page.evaluate("sessionStorage.getItem('csr-session')")
    return page.request.get(f"{address}api/sessions/{session}").json()


def percents(state: dict[str, Any]) -> dict[str, str]:
    """Return the percentages that the page should show, by diagnosis."""
    return {d["name"]: f"{100 * d['probability']:.1f}%" for d in state["diagnoses"]}


def drag(page: Any, x_min: float, y_min: float, x_max: float, y_max: float) -> None:
    """Draw a box with the mouse; fractions of the image."""
    page.locator("#stage").scroll_into_view_if_needed()
    frame = page.locator("#stage").bounding_box()
    at = [
        (frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
        for x, y in ((x_min, y_min), (x_max, y_max))
    ]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=4)
    page.mouse.up()
