"""The page of `csr serve` in a browser: what tests do on it, and read from it."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
    """Return what the page should show, by diagnosis: percentages, and scores where nothing is calibrated."""
    return {
        d["name"]: f"score {d['probability']:.2f}"
        if d["calibration"] == "score"
        else f"{100 * d['probability']:.1f}%"
        for d in state["diagnoses"]
    }


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


def grey_pixels(page: Any, selector: str = "#picture") -> np.ndarray:
    """Return the red channel of a canvas, uint8 (height, width)."""
    size = page.evaluate(
        "(s) => [document.querySelector(s).height, document.querySelector(s).width]", selector
    )
    text = page.evaluate(
        """(selector) => {
          const canvas = document.querySelector(selector);
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let red = "";
          for (let i = 0; i < data.length; i += 4) red += String.fromCharCode(data[i]);
          return btoa(red);
        }""",
        selector,
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(size)


def shown_at(pixels: np.ndarray, image: np.ndarray, *, side: int = 24) -> tuple[int, int] | None:
    """Return x and y of the part of an image that lies, pixel for pixel, in the middle of the shown ones."""
    top, left = ((length - side) // 2 for length in pixels.shape)
    patch = pixels[top : top + side, left : left + side]
    views = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    candidates = np.argwhere(views[:, :, 0, 0] == patch[0, 0])
    found = [(int(x), int(y)) for y, x in candidates if np.array_equal(views[y, x], patch)]
    return found[0] if len(found) == 1 else None


def marks(page: Any, kind: str) -> list[list[float]]:
    """Return x, y, right and bottom of the rectangles of a kind over the image, CSS pixels of the stage."""
    return page.evaluate(
        """(kind) => [...document.querySelectorAll(`#marks rect.${kind}`)].map((one) => {
          const read = (name) => Number(one.getAttribute(name));
          const [x, y, width, height] = ["x", "y", "width", "height"].map(read);
          return [x, y, x + width, y + height];
        })""",
        kind,
    )


def settle(page: Any) -> None:
    """Wait until the page has drawn the image, in all parts that it asks for."""
    for _ in range(2):  # what came last is drawn at the next frame
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.wait_for_selector('#picture[data-pending="false"]', state="attached")


def on_stage(page: Any, x: float, y: float) -> tuple[float, float]:
    """Return the place of a point of the stage (fractions) on the screen."""
    frame = page.locator("#stage").bounding_box()
    return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]


def wait_for_step(page: Any, address: str, step: int) -> None:
    """Wait until the page's session is at a step of its history, and the page shows it."""
    end = time.monotonic() + WAIT_MS / 1000
    while (now := state(page, address)["step"]) != step:
        assert time.monotonic() < end, f"step {now} and not {step}"
        page.wait_for_timeout(50)
    now = state(page, address)
    page.wait_for_function(  # what the page keeps of a state, once it shows it
        "([key, steps]) => JSON.parse(sessionStorage.getItem(key))?.steps.length === steps",
        arg=[f"csr-kept:{now['image']['sha256']}", now["num_steps"]],
    )
    settle(page)
