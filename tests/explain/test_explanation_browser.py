"""The page of an explanation in a browser: nothing is cut on a phone, and cells can be made hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from PIL import Image
from tiny_model import tiny_model

from csr.cli.explain import main

pytestmark = pytest.mark.slow


def test_the_called_column_is_seen_on_a_phone_and_hard_cells_replace_smooth_ones(tmp_path: Path):
    pixels = np.random.default_rng(3).integers(0, 256, (60, 120), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    model = str(tiny_model().save_pretrained(tmp_path / "model"))
    assert main([model, str(tmp_path / "scan.png"), "--out", str(tmp_path / "out")]) == 0
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto((tmp_path / "out" / "index.html").as_uri())
        table = page.locator("table.diagnoses")
        cells = [cell.bounding_box() for cell in table.locator("th:visible, td:visible").all()]
        assert cells and all(cell["x"] >= 0 and cell["x"] + cell["width"] <= 390 for cell in cells)
        assert "called" in table.inner_text()
        smooth, hard = page.locator("img.smooth").first, page.locator("img.cells").first
        assert smooth.is_visible() and not hard.is_visible()
        page.check("#hard")
        assert hard.is_visible() and not smooth.is_visible()
