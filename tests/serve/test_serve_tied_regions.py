"""Regions tied to one concept, and the cells that regions count as, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from serving import box, opened, png, put
from tiny_model import CONCEPTS, K, M

from csr.data.images.resize import resize_file
from csr.serve.records.schemas import Record
from csr.serve.records.words import changes_in_words
from csr.serve.schemas import Box, Edits

CORNERS = (0.1, 0.15, 0.55, 0.6)


@pytest.fixture
def maps(model, tmp_path):
    """Maps of the image that `png` makes, numpy (K, M, H, W)."""
    (tmp_path / "scan.png").write_bytes(png())
    pixels = resize_file(tmp_path / "scan.png", model.card.preprocessing.stored_size).pixels_CSS
    with torch.no_grad():
        output = model(model.card.preprocessing.transform()(torch.from_numpy(pixels)[None]))
    return output.similarity_maps[0].numpy()


def loop_scores(maps, boxes, alpha, absent):
    """Return the scores (K, M) under regions; absent (K, M) medians, or None for zero."""
    height, width = maps.shape[2:]
    scores = np.zeros((K, M))
    for k in range(K):
        own = [one for one in boxes if one["concept"] in (None, CONCEPTS[k])]
        for m in range(M):
            values = []
            for i, j in np.ndindex(height, width):
                value, x, y = float(maps[k, m, i, j]), (j + 0.5) / width, (i + 0.5) / height
                if own:
                    kinds = {
                        one["kind"]
                        for one in own
                        if one["x_min"] <= x <= one["x_max"] and one["y_min"] <= y <= one["y_max"]
                    }
                    outside = alpha if any(one["kind"] == "positive" for one in own) else 1.0
                    importance = 0.0 if "negative" in kinds else 1.0 if "positive" in kinds else outside
                    usual = 0.0 if absent is None else float(absent[k, m])
                    if value > usual:
                        value = usual + importance * (value - usual)
                    elif absent is None:
                        value = 0.0
                values.append(value)
            scores[k, m] = max(values)
    return scores


@pytest.mark.parametrize("replacement", ["median", "zero"])
@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_a_tied_region_changes_the_scores_of_its_concept_alone(client, model, maps, kind, replacement):
    absent = model.card.reference.absent_KM.numpy() if replacement == "median" else None
    session = opened(client)["session"]
    before = {k: client.get(f"/api/sessions/{session}/concepts/{k}").json() for k in range(K)}
    corners = CORNERS if kind == "positive" else (0.0, 0.0, 1.0, 0.9)  # what is ruled out has the maxima
    boxes = [box(kind, *corners, concept=CONCEPTS[1])]
    state = put(client, session, boxes=boxes, alpha=0.3, replacement=replacement).json()
    assert state["edits"]["boxes"] == boxes, "recorded as it is tied"
    wanted = loop_scores(maps, boxes, 0.3, absent)
    for k in range(K):
        scores = [
            p["score"] for p in client.get(f"/api/sessions/{session}/concepts/{k}").json()["prototypes"]
        ]
        assert scores == pytest.approx(wanted[k].tolist(), abs=1e-5)
        is_same = scores == [p["score"] for p in before[k]["prototypes"]]
        assert is_same == (k != 1), "the others stay to the last bit"
    record = client.get(f"/api/sessions/{session}/record").json()
    assert record["steps"][-1]["edits"]["boxes"] == boxes
    Record.model_validate(record)


def test_tied_and_free_regions_together(client, model, maps):
    absent = model.card.reference.absent_KM.numpy()
    boxes = [
        box("positive", 0.0, 0.0, 0.5, 0.5),
        box("negative", 0.2, 0.2, 0.9, 0.9, concept=CONCEPTS[0]),
        box("positive", 0.5, 0.5, 1.0, 1.0, concept=CONCEPTS[2]),
    ]
    session = opened(client)["session"]
    put(client, session, boxes=boxes, alpha=0.1, replacement="median")
    wanted = loop_scores(maps, boxes, 0.1, absent)
    for k in range(K):
        answer = client.get(f"/api/sessions/{session}/concepts/{k}").json()
        assert [p["score"] for p in answer["prototypes"]] == pytest.approx(wanted[k].tolist(), abs=1e-5)
        shown = client.get(f"/api/sessions/{session}/maps?of={k}.0&of={(k + 1) % K}.1").json()["maps"]
        assert max(shown[0]["values"]) == pytest.approx(wanted[k, 0], abs=1e-4)
        assert max(shown[1]["values"]) == pytest.approx(wanted[(k + 1) % K, 1], abs=1e-4)


def test_a_tied_region_is_judged_by_its_own_map(client):
    session = opened(client)["session"]
    for name in CONCEPTS:
        state = put(client, session, boxes=[box("positive", 0.0, 0.0, 1.0, 1.0, concept=name)]).json()
        assert state["safety"]["boxes"][0]["concept"] == name


def test_tying_is_one_step_that_undo_takes_back(client):
    session = opened(client)["session"]
    free = put(client, session, boxes=[box("positive", *CORNERS)]).json()
    tied = put(client, session, boxes=[box("positive", *CORNERS, concept=CONCEPTS[0])]).json()
    assert tied["step"] == free["step"] + 1
    back = client.post(f"/api/sessions/{session}/undo").json()
    assert back["edits"] == free["edits"] and back["diagnoses"] == free["diagnoses"]


def test_a_record_says_which_concept_a_region_is_tied_to():
    free, tied = (
        Box(**box("positive", 0, 0, 0.5, 0.5)),
        Box(**box("positive", 0, 0, 0.5, 0.5, concept="Cavity")),
    )
    before = Edits(decisions={}, boxes=[free], alpha=0.2, replacement="zero")
    after = before.model_copy(update={"boxes": [tied]})
    wanted = "look here, 0% to 50% from the left, 0% to 50% from the top, for Cavity alone"
    assert changes_in_words(before, after) == [f"changed region +1 to {wanted}"]


@pytest.mark.parametrize("name", ["", "no such", "cavity", "x" * 10_000])
def test_a_region_tied_to_an_unknown_concept_is_refused(client, name):
    session = opened(client)["session"]
    boxes = [box("positive", *CORNERS), box("negative", *CORNERS, concept=name)]
    answer = put(client, session, boxes=boxes)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "region 2 is tied to a concept that the model does not have"
    for wrong in (5, ["a"], {}):
        assert put(client, session, boxes=[{**boxes[0], "concept": wrong}]).status_code == 422


def test_a_region_says_which_cells_it_counts_as(client):
    first = opened(client)
    height, width = first["map"]["height"], first["map"]["width"]
    draw = np.random.default_rng(0)
    corners = np.sort(draw.uniform(0, 1, (40, 2, 2)), axis=1).reshape(40, 4)
    corners = np.concatenate([corners, [[0, 0, 1, 1], [0.51, 0.02, 0.52, 0.03]]])
    boxes = [box("positive", *row.tolist()) for row in corners]
    state = put(client, first["session"], boxes=boxes).json()
    for (x_min, y_min, x_max, y_max), one in zip(corners, state["safety"]["boxes"], strict=True):
        columns = [j for j in range(width) if x_min <= (j + 0.5) / width <= x_max] or [
            int((x_min + x_max) / 2 * width)
        ]
        rows = [i for i in range(height) if y_min <= (i + 0.5) / height <= y_max] or [
            int((y_min + y_max) / 2 * height)
        ]
        assert one["cells"] == [columns[0], rows[0], columns[-1], rows[-1]]
