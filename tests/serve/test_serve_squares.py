"""Under every way to a square, the page's maps and a doctor's regions meet on the original image."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from bright_model import CELLS, TALL, WIDE, block_box, block_image, bright_model, is_inside
from serving import BASE, box, opened, png, put

import csr.serve
from csr.data.images.square import boxes_in_square
from csr.model.interaction import box_cells
from csr.serve.case import cell_ranges

SCENES = {"wide": WIDE, "tall": TALL}
WAYS = ("squash", "letterbox", "crop")


@pytest.fixture(scope="module")
def clients():
    from starlette.testclient import TestClient

    from csr.serve.access import Access
    from csr.serve.app import create_app
    from csr.serve.limits import Limits
    from csr.serve.service import Service

    def build(way):
        limits = Limits()
        service = Service(bright_model(way), name="bright", limits=limits)
        service.warm_up()
        return TestClient(create_app(service, Access(max_bytes=limits.max_bytes)), base_url=BASE)

    return {way: build(way) for way in WAYS}


def maps_of(client, session):
    values = client.get(f"/api/sessions/{session}/maps?of=0.0").json()["maps"][0]["values"]
    return np.asarray(values).reshape(CELLS, CELLS)


def centres(frame):
    """Return x and y of the centres of all cells as fractions of the image, by a loop."""
    x_min, y_min, x_max, y_max = frame
    return [
        [
            (x_min + (i + 0.5) / CELLS * (x_max - x_min), y_min + (j + 0.5) / CELLS * (y_max - y_min))
            for i in range(CELLS)
        ]
        for j in range(CELLS)
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SCENES)
def test_peaks_and_maps_lie_on_the_block(clients, way, name):
    state = opened(clients[way], png(block_image(SCENES[name])))
    block = block_box(SCENES[name])
    assert all(is_inside(concept["peak"], block) for concept in state["concepts"])
    heat = maps_of(clients[way], state["session"])
    cells = centres(state["map"]["frame"])
    bright = [cells[j][i] for j, i in np.argwhere(heat > (heat.max() + heat.min()) / 2)]
    half = max(state["map"]["frame"][at + 2] - state["map"]["frame"][at] for at in (0, 1)) / CELLS
    assert bright and all(is_inside(cell, block, slack=half) for cell in bright)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SCENES)
def test_a_region_on_the_original_counts_for_the_cells_below_it(clients, way, name):
    client, corners = clients[way], block_box(SCENES[name])
    first = opened(client, png(block_image(SCENES[name])))
    before = maps_of(client, first["session"])
    region = box("negative", *corners)
    answer = put(client, first["session"], boxes=[region], alpha=1.0, replacement="zero")
    assert answer.status_code == 200, answer.text
    assert answer.json()["edits"]["boxes"] == [region], "shown and recorded as it was drawn"
    after = maps_of(client, first["session"])
    cells = centres(first["map"]["frame"])
    for j, i in np.ndindex(CELLS, CELLS):
        excluded = is_inside(cells[j][i], corners)
        assert after[j, i] == pytest.approx(0 if excluded else max(0, before[j, i]), abs=1e-4)


def test_a_region_beside_the_crop_is_refused_with_its_number_and_one_at_its_edge_is_cut(clients):
    client = clients["crop"]
    session = opened(client, png(block_image(WIDE)))["session"]  # the square is 70 to 170 of 240 pixels
    beside = [box("positive", 0.4, 0.2, 0.5, 0.4), box("negative", 0.05, 0.1, 0.28, 0.9)]
    answer = put(client, session, boxes=beside)
    assert answer.status_code == 422
    assert "region 2 lies beside the central square" in answer.text
    # A column of cells is 6.25 pixels wide: up to pixel 77 one of them is covered.
    cut = put(
        client, session, boxes=[box("negative", 0.0, 0.0, 77 / 240, 1.0)], alpha=1.0, replacement="zero"
    )
    assert cut.status_code == 200
    heat = maps_of(client, session)
    assert (heat[:, 0] == 0).all() and heat[:, 1:].max() > 0


SCRIPT = """
const { paintHeat, cellSize } = await import(process.argv[1]);
const [map, values, width, height] = JSON.parse(process.argv[2]);
const context = { createImageData: (w, h) => ({ data: new Array(w * h * 4).fill(0) }) };
const canvas = { width, height, getContext: () => context };
const colours = { values, low: 0, high: 1, palette: [[0, 0, 0], [255, 0, 0]], opacity: 1 };
const { pixels } = paintHeat(canvas, map, colours);
console.log(JSON.stringify([pixels.data.filter((_, i) => i % 4 === 3), cellSize(map)]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("frame", [[0, 0, 1, 1], [0, -0.5, 1, 1.5], [0.25, 0, 0.75, 1]])
def test_the_page_paints_a_map_on_its_frame(frame, tmp_path):
    script = tmp_path / "heat.mjs"
    shutil.copy(Path(csr.serve.__file__).parent / "static" / "heat.js", script)
    values = [0.0] * 16
    values[1 * 4 + 2] = 1.0  # row 1, column 2 of 4 x 4
    arguments = json.dumps([{"width": 4, "height": 4, "frame": frame}, values, 200, 100])
    command = ["node", "--input-type=module", "-e", SCRIPT, str(script), arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    opacity, cell = json.loads(done.stdout)
    heat = np.asarray(opacity).reshape(100, 200)
    x_min, y_min, x_max, y_max = frame
    assert cell == pytest.approx([(x_max - x_min) / 4, (y_max - y_min) / 4])
    ys, xs = np.nonzero(heat > 190)
    x, y = x_min + 2.5 / 4 * (x_max - x_min), y_min + 1.5 / 4 * (y_max - y_min)
    assert (xs.mean() + 0.5, ys.mean() + 0.5) == pytest.approx((200 * x, 100 * y), abs=1)
    if frame[0] > 0:
        assert heat[:, :50].max() == 0 and heat[:, 150:].max() == 0


COUNTING = """
const { cellsOf } = await import(process.argv[1]);
const [map, boxes] = JSON.parse(process.argv[2]);
const cells = boxes.map(([x_min, y_min, x_max, y_max]) => cellsOf({ x_min, y_min, x_max, y_max }, map));
console.log(JSON.stringify(cells));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("frame", [[0, 0, 1, 1], [0, -0.5, 1, 1.5], [0.25, 0, 0.75, 1]])
def test_the_page_marks_the_cells_that_the_server_counts_while_a_region_is_changed(frame, tmp_path):
    for name in ("marks.js", "boxes.js"):
        shutil.copy(Path(csr.serve.__file__).parent / "static" / name, tmp_path / name)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    draw, size = np.random.default_rng(0), {"width": 7, "height": 4}
    box_R4 = np.sort(draw.uniform(0, 1, (200, 2, 2)), axis=1).reshape(-1, 4)
    box_R4[100:, 2:] = np.minimum(box_R4[100:, :2] + 0.03, 1)  # many of them between two centres
    arguments = json.dumps([{**size, "frame": frame}, box_R4.tolist()])
    command = ["node", "--input-type=module", "-e", COUNTING, str(tmp_path / "marks.js"), arguments]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    inside_R4 = boxes_in_square(box_R4, np.asarray(frame)).clip(0, 1)
    seen_R = (inside_R4[:, :2] < inside_R4[:, 2:]).all(1)
    counted = cell_ranges(box_cells(torch.from_numpy(inside_R4[seen_R]), **size))
    assert [one for one in told if one is not None] == counted and len(counted) > 100
    assert [one is not None for one in told] == seen_R.tolist(), "what lies beside the square has none"
