"""The page and the OpenAPI document name no address outside; training regions come from the atlas only."""

from __future__ import annotations

import configparser
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import png

import csr.serve
from csr.explain.neighbours import Neighbour

STATIC = Path(csr.serve.__file__).parent / "static"
FILES = sorted(path.name for path in STATIC.iterdir())
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", FILES)
def test_files_are_served_and_name_no_address_outside(client, name):
    text = client.get(f"/static/{name}").text
    assert text == (STATIC / name).read_text()
    assert text.isascii()
    outside = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside


def test_scripts_put_no_text_in_as_html_and_run_none():
    for path in STATIC.glob("*.js"):
        match = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()
        )
        assert match is None, path.name
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", page), "the policy would block it"


def test_every_id_that_scripts_look_up_is_in_the_page():
    page = (STATIC / "index.html").read_text()
    present = set(re.findall(r'id="([\w-]+)"', page))
    wanted = {
        name for path in STATIC.glob("*.js") for name in re.findall(r'\bat\("([\w-]+)"\)', path.read_text())
    }
    assert len(present) == page.count(' id="') and not wanted - present


def test_imports_of_scripts_are_files_that_are_there():
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([\w.]+)"', path.read_text()):
            assert name in FILES


def test_the_openapi_document_describes_every_address_and_names_none_outside(client):
    document = client.get("/openapi.json")
    assert not re.search(r"https?://", document.text)
    paths = document.json()["paths"]
    assert set(paths) == {
        "/api/model",
        "/api/images",
        "/api/alive",
        "/api/sessions/{session}",
        "/api/sessions/{session}/edits",
        "/api/sessions/{session}/undo",
        "/api/sessions/{session}/redo",
        "/api/sessions/{session}/reset",
        "/api/sessions/{session}/record",
        "/api/sessions/{session}/record.html",
        "/api/sessions/{session}/replay",
        "/api/sessions/{session}/notes",
        "/api/sessions/{session}/what_if/{target}",
        "/api/sessions/{session}/image",
        "/api/sessions/{session}/maps",
        "/api/sessions/{session}/depth",
        "/api/sessions/{session}/depth/raw",
        "/api/sessions/{session}/depth/shown",
        "/api/sessions/{session}/concepts/{concept}",
        "/api/regions/{concept}/{prototype}",
        "/api/regions/{concept}/{prototype}/{rank}",
    }
    for methods in paths.values():
        for operation in methods.values():
            assert operation["description"]
            success = [code for code in operation["responses"] if code.startswith("2")]
            assert len(success) == 1, "one answer"


def test_the_page_is_in_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.package_data"]["csr.serve"] == "static/*"
    assert setup["options"]["packages"].strip() == "find:"


@pytest.fixture
def regions(serve, tmp_path):
    (tmp_path / "near.png").write_bytes(png(np.full((40, 60), 90, dtype=np.uint8)))
    (tmp_path / "bad.png").write_bytes(b"junk")
    near = [
        Neighbour(tmp_path / "near.png", (0.25, 0.25, 0.75, 0.75), 0.93),
        Neighbour(tmp_path / "bad.png", (0.0, 0.0, 1.0, 1.0), 0.5),
        Neighbour(tmp_path / "gone.png", (0.0, 0.0, 1.0, 1.0), 0.4),
    ]
    with serve(neighbours={(0, 1): near}) as client:
        yield client


def test_training_regions_are_framed_pictures_without_paths(regions, tmp_path):
    assert regions.get("/api/model").json()["has_atlas"]
    answer = regions.get("/api/regions/0/1")
    assert [one["image"] for one in answer.json()] == [None] * 3, "names of files are often ids of patients"
    assert str(tmp_path) not in answer.text and answer.json()[0]["similarity"] == 0.93
    picture = np.asarray(Image.open(io.BytesIO(regions.get("/api/regions/0/1/0").content)))
    height, width = picture.shape[:2]
    assert picture[height // 2, width // 2].tolist() == [90, 90, 90]
    assert picture[height // 2, width // 4].tolist() != [90, 90, 90], "the frame"


@pytest.mark.parametrize("path", ["0/1/1", "0/1/2", "0/1/3", "0/1/-1", "2/0/0", "9/0/0", "0/9/0"])
def test_a_training_image_that_is_not_there_is_refused_without_its_path(regions, tmp_path, path):
    answer = regions.get(f"/api/regions/{path}")
    assert answer.status_code == 404 and str(tmp_path) not in answer.text
    assert regions.get(f"/api/regions/{path}").status_code == 404, "from the kept pictures too"


def test_names_of_training_files_are_shown_where_the_server_was_told_to(serve, tmp_path):
    near = [Neighbour(tmp_path / "patient7.png", (0.25, 0.25, 0.75, 0.75), 0.93)]
    with serve(neighbours={(0, 1): near}, show_ids=True) as client:
        assert client.get("/api/regions/0/1").json()[0]["image"] == "patient7.png"


def test_without_an_atlas_there_are_no_regions(client):
    assert not client.get("/api/model").json()["has_atlas"]
    assert client.get("/api/regions/0/0").json() == []
