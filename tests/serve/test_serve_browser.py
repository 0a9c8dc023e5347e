"""The page in a real headless Chromium: open, reject, draw, undo, download; keyboard, colours, sizes."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from serving import png
from tiny_model import CONCEPTS, TARGETS, K, M

from csr.explain.neighbours import Neighbour
from csr.serve.limits import Limits

pytestmark = [pytest.mark.slow, pytest.mark.dist]
WAIT_MS = 60_000
TOKEN = "correct-horse-battery"
HOSTILE = "<img src=x onerror=alert(1)>.png"
# contrast of every visible text with what is painted behind it (WCAG 2.1, 1.4.3)
CONTRAST = """() => {
  const parse = (text) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, :disabled, noscript, .unseen, .skip")) continue;
    let behind = element;
    const back = () => parse(getComputedStyle(behind).backgroundColor);
    while (back()[3] < 255 && behind !== document.documentElement) behind = behind.parentElement;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(back())];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([walker.currentNode.textContent.trim(), ratio.toFixed(2)]);
  }
  return poor;
}"""


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


def run_server(serve_one):
    """Run an application in a thread; return its address and a function that stops it."""
    import uvicorn

    from csr.cli.serve import listen

    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(serve_one, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
        assert thread.is_alive()

    def stop():
        server.should_exit = True
        thread.join(60)

    return f"http://127.0.0.1:{listener.getsockname()[1]}/", stop


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
    page.problems, page.asked = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "console",
        lambda m: (
            page.problems.append(m.text) if m.type == "error" and "TrustedScript" not in m.text else None
        ),
    )
    page.on("dialog", lambda dialog: page.problems.append("a dialog"))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    yield page
    assert page.problems == []
    assert all(url.startswith((address, "blob:")) for url in page.asked)
    context.close()


@pytest.fixture
def image(tmp_path):
    (tmp_path / HOSTILE).write_bytes(png())
    return tmp_path / HOSTILE


def open_image(page, image):
    page.set_input_files("#file", image)
    page.wait_for_selector("#prototypes tbody tr")


def probabilities(page):
    return dict(
        zip(
            page.locator(".diagnosis .name").all_inner_texts(),
            page.locator(".diagnosis .value").all_inner_texts(),
            strict=True,
        )
    )


def state(page, address):
    session = page.evaluate("sessionStorage.getItem('csr-session')")
    return page.request.get(f"{address}api/sessions/{session}").json()


def percents(state):
    return {d["name"]: f"{100 * d['probability']:.1f}%" for d in state["diagnoses"]}


def drag(page, x_min, y_min, x_max, y_max):
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


def test_open_reject_draw_undo_and_download(page, address, image):
    open_image(page, image)
    first = probabilities(page)
    assert first == percents(state(page, address)) and set(first) == set(TARGETS)
    assert HOSTILE in page.inner_text("#image-facts"), "a name is text"
    page.click(f'button[aria-label="Reject {CONCEPTS[0]}"]')
    page.wait_for_selector('.concept[data-decision="rejected"]')
    rejected = probabilities(page)
    assert rejected == percents(state(page, address)) != first
    page.click('label:has-text("Not here")')
    drag(page, 0.1, 0.2, 0.5, 0.7)
    page.wait_for_selector(".boxrow")
    drawn = state(page, address)["edits"]["boxes"]
    assert [b["kind"] for b in drawn] == ["negative"]
    assert [drawn[0][key] for key in ("x_min", "y_min", "x_max", "y_max")] == pytest.approx(
        [0.1, 0.2, 0.5, 0.7], abs=0.01
    )
    both = probabilities(page)
    assert both == percents(state(page, address))
    page.click("#undo")
    page.wait_for_selector(".boxrow", state="detached")
    assert probabilities(page) == rejected
    page.keyboard.press("Control+z")
    page.wait_for_selector('.concept[data-decision="rejected"]', state="detached")
    assert probabilities(page) == first and page.is_disabled("#undo")
    page.keyboard.press("Control+y")
    page.wait_for_selector('.concept[data-decision="rejected"]')
    page.click("#redo")
    page.wait_for_selector(".boxrow")
    assert probabilities(page) == both
    page.click("#reset")
    page.wait_for_selector(".boxrow", state="detached")
    assert probabilities(page) == first
    with page.expect_download() as downloading:
        page.click("#download")
    record = json.loads(Path(downloading.value.path()).read_text())
    assert [s["action"] for s in record["steps"]] == [
        "open",
        "edit",
        "edit",
        "undo",
        "undo",
        "redo",
        "redo",
        "reset",
    ]
    assert record["image"]["name"] == HOSTILE
    assert downloading.value.suggested_filename == f"csr-session-{record['image']['sha256'][:12]}.json"


def test_everything_by_keyboard_alone(page, address, image):
    open_image(page, image)
    page.focus("#stage")
    page.keyboard.press("p")
    for key in (
        "Enter",
        "Shift+ArrowRight",
        "Shift+ArrowRight",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
    ):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_selector(".boxrow.positive")
    drawn = state(page, address)["edits"]["boxes"][0]
    assert [drawn[key] for key in ("x_min", "y_min", "x_max", "y_max")] == pytest.approx([0.5, 0.5, 0.7, 0.6])
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert len(state(page, address)["edits"]["boxes"]) == 1, "a cancelled box is none"
    reject = f'button[aria-label="Reject {CONCEPTS[1]}"]'
    page.click("#others-title") if not page.is_visible(reject) else None
    page.focus(reject)
    page.keyboard.press("Space")
    page.wait_for_selector(f'{reject}[aria-pressed="true"]')
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Reject {CONCEPTS[1]}", (
        "focus stays"
    )
    page.keyboard.press("Space")
    page.wait_for_selector(f'{reject}[aria-pressed="false"]')
    page.focus('button[aria-label="Remove region 1"]')
    page.keyboard.press("Enter")
    page.wait_for_selector(".boxrow", state="detached")
    assert page.evaluate("document.activeElement.id") == "stage", "focus is not lost"


def test_edits_made_faster_than_the_answers_come_are_all_in_force(page, address, image):
    open_image(page, image)
    page.evaluate("document.getElementById('others').open = true")
    page.evaluate(
        """(names) => names.forEach((name, i) => {
          const button = document.querySelector(`button[aria-label="Reject ${CSS.escape(name)}"]`);
          for (let times = 0; times <= i; times++) button.click();
        })""",
        list(CONCEPTS),
    )
    page.wait_for_selector(f'.concept[data-decision="rejected"] .name:has-text("{CONCEPTS[2][:5]}")')
    decided = {CONCEPTS[0]: "rejected", CONCEPTS[2]: "rejected"}
    assert state(page, address)["edits"]["decisions"] == decided, "once, twice and three times pressed"
    assert probabilities(page) == percents(state(page, address))


def test_every_control_has_a_name(page, image):
    open_image(page, image)
    page.click("#others-title") if page.is_visible("#others-title") else None
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, a, canvas, img, summary")]
      .filter((e) => e.checkVisibility() && !e.closest("[aria-hidden=true]"))
      .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length))
      .filter((e) => !e.hasAttribute("alt"))
      .map((e) => e.outerHTML.slice(0, 80))""")
    assert nameless == []


def test_evidence_shows_the_image_beside_the_training_region(page, image):
    open_image(page, image)
    page.wait_for_selector("#looks-like img[src^='blob:']")
    page.wait_for_selector(".concept .near[src^='blob:']")
    assert "near.png" in page.inner_text("#looks-like")
    page.click("#prototypes tbody tr:nth-child(3) button")
    page.wait_for_selector("#prototypes tr.current:nth-child(3)")
    number = page.inner_text("#prototypes tr.current td:first-child")
    page.wait_for_selector(f'#shown-map:has-text("prototype {number}")')
    painted = page.evaluate(
        "[...document.getElementById('evidence').getContext('2d').getImageData(0, 0, 256, 256).data]"
        ".some((v, i) => i % 4 < 3 && v)"
    )
    assert painted


def test_a_dropped_file_is_opened_and_a_bad_one_is_reported(page, image):
    for name, data in (("bad.png", b"junk"), ("good.png", png())):
        page.evaluate_handle(
            """([name, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name));
          const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
            [name, list(data)],
        )
        page.wait_for_selector("#work:not([hidden])" if name == "good.png" else "#problem:not([hidden])")
        if name == "bad.png":
            assert "no image that can be read" in page.inner_text("#problem")
            page.problems.clear()  # the browser logs the refused request
    assert not page.is_visible("#problem")


def test_a_reload_comes_back_to_the_session_and_close_forgets_it(page, address, image):
    open_image(page, image)
    page.click(f'button[aria-label="Confirm {CONCEPTS[0]}"]')
    page.wait_for_selector('.concept[data-decision="confirmed"]')
    page.reload()
    page.wait_for_selector('.concept[data-decision="confirmed"]')
    session = state(page, address)["session"]
    page.click("#close")
    page.wait_for_selector("#start:not([hidden])")
    assert page.request.get(f"{address}api/sessions/{session}").status == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark_and_fits_small_screens(browser, address, image, scheme):
    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    assert page.evaluate(CONTRAST) == []
    open_image(page, image)
    page.click(f'button[aria-label="Reject {CONCEPTS[0]}"]')
    page.wait_for_selector('.concept[data-decision="rejected"]')
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_a_token_is_asked_for_and_leaves_the_address(browser, serve, image):
    address, stop = run_server(serve(Limits(), token=TOKEN).app)
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#token-dialog[open]")
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector('#token-problem:has-text("not correct")')
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#limits:not(:empty)")
    open_image(page, image)
    page.close()
    page = context.new_page()
    page.goto(f"{address}#token={TOKEN}")
    page.wait_for_selector("#limits:not(:empty)")
    assert page.url == address and not page.is_visible("#token-dialog")
    context.close()
    stop()
