"""A headless Chromium, the one of playwright or of the system, or a skip with the reason."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    installed = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as engines:
        own = Path(engines.chromium.executable_path).is_file()
        if not own and installed is None:
            pytest.skip("no Chromium: run `playwright install chromium` or install the system's package")
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = engines.chromium.launch(
            executable_path=None if own else installed, args=flags, timeout=60_000
        )
        yield browser
        browser.close()
