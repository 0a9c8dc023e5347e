"""Explanations are what the linear head computed: against loops, and as files that stand alone."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import html
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import CONCEPTS, TARGETS, K, M, tiny_card, tiny_model, with_one_diagnosis

from csr.cli.explain import main
from csr.explain.explanation import explain, map_scales, to_dict
from csr.explain.neighbours import read_neighbours, vector_names
from csr.explain.page import map_picture
from csr.model import CSR
from csr.model.contributions import NO_MEDIANS
from csr.model.interaction import decide
from csr.model.sharing.origin import model_sha256
from csr.model.sharing.reference import Reference
from csr.report.pictures import heat_colours
from csr.runtime.errors import InputError


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(model.save_pretrained(tmp_path_factory.mktemp("model")))


@pytest.fixture
def stored() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, 1, 72, 72), dtype=torch.uint8, generator=generator)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (60, 120), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "<i>scan.png")
    return tmp_path / "<i>scan.png"


def write_atlas(folder: Path, image: str, model: CSR, **named: str) -> Path:
    folder.mkdir()
    vector_KM = vector_names(model).tolist()
    nearest = [{"image": image, "box": [0.1, 0.2, 0.5, 0.9], "similarity": 0.93, **named}]
    prototypes = [
        {"concept": k, "prototype": m, "vector": vector_KM[k][m], "nearest": nearest}
        for k in range(K)
        for m in range(M)
    ]
    value = {
        "format": "csr-nearest",
        "format_version": 2,
        "concept_names": list(CONCEPTS),
        "num_prototypes": M,
        "prototypes": prototypes,
    }
    (folder / "nearest.json").write_text(json.dumps(value))
    return folder


def test_the_base_and_the_contributions_of_all_prototypes_sum_to_the_logit(model, stored):
    for e in explain(model, stored):
        torch.testing.assert_close((e.share_TKM.sum((1, 2)) + e.base_T).float(), e.logit_T, rtol=0, atol=1e-5)


def test_the_base_is_the_logit_of_the_absent_medians(model, stored):
    with torch.no_grad():
        expected = model.task_head(tiny_card().reference.absent_KM.unsqueeze(0))[0]
    for e in explain(model, stored):
        torch.testing.assert_close(e.base_T.float(), expected, rtol=0, atol=1e-5)


def test_a_model_without_absent_medians_counts_from_zero_and_says_so(model, stored, image, tmp_path, capsys):
    other = copy.deepcopy(model)
    other.card = dataclasses.replace(other.card, reference=Reference())
    weight = other.task_head.linear.weight.detach().double()
    for e in explain(other, stored):
        assert not e.is_centred and e.rejected_TK is None
        assert torch.equal(e.base_T.float(), e.bias_T)
        assert torch.equal(e.share_TKM.flatten(1), weight * e.score_KM.flatten().double())
        record = to_dict(e, neighbours={})
        assert record["contributions_from"] == "zero"
        assert record["concepts"][0]["prototypes"][0]["absent_median"] is None
    folder = other.save_pretrained(tmp_path / "other")
    assert main([str(folder), str(image), "--out", str(tmp_path / "out")]) == 0
    assert NO_MEDIANS in capsys.readouterr().out
    assert NO_MEDIANS in (tmp_path / "out" / "index.html").read_text()


@torch.no_grad()
def test_if_rejected_is_how_far_the_interaction_moves_the_logit(model, stored):
    absent = tiny_card().reference.absent_KM
    for e in explain(model, stored):
        for k in range(K):
            decision = torch.zeros(1, K, dtype=torch.int64)
            decision[0, k] = -1
            after = model.task_head(decide(e.score_KM.unsqueeze(0), decision, absent_KM=absent))[0]
            torch.testing.assert_close(e.rejected_TK[:, k].float(), after - e.logit_T, rtol=0, atol=1e-5)
            assert torch.equal(e.rejected_TK[:, k], -e.share_TKM[:, k].sum(1))


@torch.no_grad()
def test_the_map_shown_is_that_of_the_best_prototype_and_its_peak_is_the_score(model, stored):
    output = model(model.card.preprocessing.transform()(stored))
    for b, e in enumerate(explain(model, stored)):
        for k in range(K):
            best = max(range(M), key=lambda m: float(e.score_KM[k, m]))
            assert int(e.best_K[k]) == best
            torch.testing.assert_close(e.map_KHW[k], output.similarity_maps[b, k, best], rtol=0, atol=1e-6)
            height, width = e.map_KHW.shape[1:]
            x, y = e.peak(k)
            assert float(e.map_KHW[k, int(y * height), int(x * width)]) == float(e.score_KM[k, best])


def test_the_largest_contributions_to_the_chosen_diagnosis_are_shown_whatever_their_probability(
    model, stored
):
    for e in explain(model, stored):
        called = [t for t in range(2) if bool(e.present_T[t])]
        chosen = max(called or range(2), key=lambda t: float(e.probability_T[t]))
        assert e.chosen == chosen
        for t in range(2):
            added = [sum(e.share_TKM[t, k].tolist()) for k in range(K)]
            order = sorted(range(K), key=lambda k: -abs(added[k]))
            assert e.shown(2, target=t) == order[:2]
            assert e.rest(order[:2], target=t) == pytest.approx(added[order[2]], abs=1e-12)
            e.active_K.fill_(t == 0)
            assert e.shown(2, target=t) == order[:2], "called or not"
        assert e.shown(2) == e.shown(2, target=chosen)


def test_a_concept_that_is_not_called_is_marked_and_the_rest_is_one_line(
    model, model_folder, image, tmp_path, capsys
):
    out = tmp_path / "out"
    flags = ["--max_concepts", "2", "--diagnosis", TARGETS[1]]
    assert main([model_folder, str(image), "--out", str(out), *flags]) == 0
    record, text = json.loads((out / "explanation.json").read_text()), capsys.readouterr().out
    concepts = sorted(record["concepts"], key=lambda c: -abs(c["contribution"][TARGETS[1]]))
    page = html.unescape((out / "index.html").read_text())
    uncalled = [c["name"] for c in concepts[:2] if not c["active"]]
    assert uncalled, "else this test shows nothing"
    assert page.count("the model does not call this finding") == len(uncalled)
    assert text.count("the model does not call this finding") == len(uncalled)
    rest = concepts[2]["contribution"][TARGETS[1]]
    assert f"The other 1 concept together: {rest:+.2f}." in page
    assert text.index(concepts[0]["name"]) < text.index(concepts[1]["name"])
    with pytest.raises(InputError, match=f"--diagnosis COPD: the model has {', '.join(TARGETS)}"):
        main([model_folder, str(image), "--out", str(tmp_path / "x"), "--diagnosis", "COPD"])


def test_the_json_has_every_number_by_name(model, stored):
    e = explain(model, stored)[1]
    record = json.loads(json.dumps(to_dict(e, neighbours={}), allow_nan=False))
    assert [c["name"] for c in record["concepts"]] == list(CONCEPTS)
    assert record["contributions_from"] == "absent medians"
    absent, weight = tiny_card().reference.absent_KM, model.task_head.linear.weight.detach()
    for t, diagnosis in enumerate(record["diagnoses"]):
        name = TARGETS[t]
        shares = [p["contribution"][name] for c in record["concepts"] for p in c["prototypes"]]
        assert len(shares) == K * M
        assert sum(shares) + diagnosis["base"] == pytest.approx(diagnosis["logit"], abs=1e-5)
        raw = [p["weight"][name] * p["score"] for c in record["concepts"] for p in c["prototypes"]]
        assert sum(raw) + diagnosis["bias"] == pytest.approx(diagnosis["logit"], abs=1e-5)
        for k, concept in enumerate(record["concepts"]):
            for m, one in enumerate(concept["prototypes"]):
                assert one["absent_median"] == float(absent[k, m])
                expected = float(weight[t, k * M + m]) * (one["score"] - float(absent[k, m]))
                assert one["contribution"][name] == pytest.approx(expected, abs=1e-12)
            parts = sum(p["contribution"][name] for p in concept["prototypes"])
            assert concept["contribution"][name] == pytest.approx(parts)


def test_where_exactly_one_diagnosis_holds_no_threshold_of_one_is_shown(image, tmp_path):
    model = with_one_diagnosis()
    folder = str(model.save_pretrained(tmp_path / "model"))
    readme = (tmp_path / "model" / "README.md").read_text()
    assert "| Tuberculosis | diagnosis |  |" in readme and "| Cavity | concept | 0.4000 |" in readme
    assert "the likeliest is called, without a threshold" in readme
    for name in TARGETS:
        out = tmp_path / name
        assert main([folder, str(image), "--out", str(out), "--diagnosis", name]) == 0
        diagnoses = json.loads((out / "explanation.json").read_text())["diagnoses"]
        assert [d["threshold"] for d in diagnoses] == [None, None]
        likeliest = max(diagnoses, key=lambda d: d["probability"])
        assert [d["name"] for d in diagnoses if d["present"]] == [likeliest["name"]]
        text = (out / "index.html").read_text()
        assert "threshold" not in text.split("</style>")[-1] and "<th>the likeliest</th>" in text
        noted = f"{name} is not the likeliest diagnosis: the model does not call it."
        assert (noted in text) == (name != likeliest["name"])


def test_the_map_of_an_image_without_the_concept_is_clear_and_the_page_says_how_coarse_it_is(
    model, stored, model_folder, image, tmp_path
):
    e = explain(model, stored)[0]
    flat = dataclasses.replace(e, map_KHW=torch.stack([m.clamp(max=0.0) for m in e.map_KHW]))
    plain = np.full((32, 32, 3), 90, dtype=np.uint8)
    scales = map_scales(e, list(range(K)))
    for k in range(K):
        best = int(e.best_K[k])
        assert scales[k] == tiny_card().reference.map_scale(k, best)
        assert scales[k][0] > 0, "else this test shows nothing"
        picture = map_picture(plain, flat, k, scale=scales[k])
        framed = (picture != 90).any(axis=2)
        assert (picture[framed] == (0, 200, 255)).all(), "the frame alone"
    assert main([model_folder, str(image), "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "explanation.json").read_text())
    height, width = record["map_cells"]
    assert (height, width) == tuple(e.map_KHW.shape[1:])
    assert f"map of {height} x {width} cells" in (tmp_path / "out" / "index.html").read_text()
    best = record["concepts"][0]["best_prototype"]
    assert record["concepts"][0]["map_scale"] == list(tiny_card().reference.map_scale(0, best))


class Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action")]


def test_the_command_writes_json_picture_and_a_page_that_stands_alone(
    model, model_folder, image, tmp_path, capsys
):
    out = tmp_path / "out"
    atlas = write_atlas(tmp_path / "atlas", str(image), model)
    assert main([model_folder, str(image), "--out", str(out), "--atlas", str(atlas)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["explanation.json", "explanation.png", "index.html"]
    record = json.loads((out / "explanation.json").read_text())
    assert record["image"]["width"] == 120 and record["image"]["height"] == 60
    assert record["concepts"][0]["training_regions"][0]["similarity"] == 0.93
    assert Image.open(out / "explanation.png").width > 320
    page = Addresses()
    text = (out / "index.html").read_text()
    page.feed(text)
    assert page.found and all(address.startswith("data:image/png;base64,") for address in page.found)
    assert "i" not in page.tags and "b" in page.tags, "names are text"
    assert page.tags.count("img") >= 3, "the image, a map, and the training region"
    assert not re.search(r"https?://", text) and "script" not in page.tags
    assert "an image without findings" in capsys.readouterr().out
    assert record["model"] == Path(model_folder).name and record["model_sha256"] == model_sha256(model)
    line = f"model {record['model']} ({record['model_sha256'][:12]}), csr {record['csr_version']}, "
    assert f"{line}{record['written'][:10]} " in text and re.fullmatch(r"\d{4}-.*Z", record["written"])


def test_hard_cells_have_one_colour_each_and_a_page_has_both_views(
    model, stored, model_folder, image, tmp_path
):
    e, plain = explain(model, stored)[0], np.full((64, 64, 3), 90, dtype=np.uint8)
    value = torch.arange(4.0).view(1, 2, 2).repeat(K, 1, 1) / 3
    blocks = dataclasses.replace(e, map_KHW=value)
    hard, smooth = (map_picture(plain, blocks, 0, scale=(0.0, 1.0), smooth=s) for s in (False, True))
    for y, x in ((0, 0), (0, 1), (1, 0)):
        inside = hard[32 * y + 4 : 32 * y + 28, 32 * x + 4 : 32 * x + 28].reshape(-1, 3)
        colour = heat_colours(value[0, y : y + 1, x : x + 1].numpy())[0, 0]
        weight = 0.45 * float(value[0, y, x])
        np.testing.assert_allclose(inside[0], 90 * (1 - weight) + colour * weight, atol=1)
        assert (inside == inside[0]).all()
    assert len(np.unique(smooth[16], axis=0)) > len(np.unique(hard[16], axis=0))
    assert main([model_folder, str(image), "--out", str(tmp_path / "out"), "--max_concepts", "2"]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('class="smooth"') == page.count('class="cells"') == 2 and 'id="hard"' in page
    assert "without the concept" in page and "colours from clear to brightest" in page


@pytest.mark.parametrize("flags", [[], ["--show_ids"]])
def test_a_training_image_that_is_gone_is_named_only_if_asked_and_without_its_path(
    model, model_folder, image, tmp_path, flags
):
    atlas = write_atlas(tmp_path / "atlas", "/secret/place/gone.png", model, image_id="patient 7")
    assert (
        main([model_folder, str(image), "--out", str(tmp_path / "out"), "--atlas", str(atlas), *flags]) == 0
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert "the file is gone" in page and "/secret" not in page
    assert ("patient 7" in page) == bool(flags), "names of training files are often ids of patients"
    record = (tmp_path / "out" / "explanation.json").read_text()
    assert "/secret" not in record and ("gone.png" in record) == ("patient 7" in record) == bool(flags)
    region = json.loads(record)["concepts"][0]["training_regions"][0]
    named = {"image": "gone.png", "image_id": "patient 7"} if flags else {}
    assert region == {"box": [0.1, 0.2, 0.5, 0.9], "similarity": 0.93, **named}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"},
        {"concept_names": ["a"]},
        {"num_prototypes": 7},
        {"prototypes": {}},
        {"prototypes": [1]},
        {"prototypes": [{"concept": 99, "prototype": 0, "nearest": []}]},
        {"prototypes": [{"concept": 0, "prototype": 0, "nearest": [{"image": "a"}]}]},
        {
            "prototypes": [
                {
                    "concept": 0,
                    "prototype": 0,
                    "nearest": [{"image": "a", "box": [0.5, 0, 0.5, 1], "similarity": 0.5}],
                }
            ]
        },
        {
            "prototypes": [
                {
                    "concept": 0,
                    "prototype": 0,
                    "nearest": [{"image": "a", "box": [0, 0, 1, 1], "similarity": 0.5, "image_id": 7}],
                }
            ]
        },
        {"prototypes": [{"concept": 0, "prototype": 0, "vector": ["v"], "nearest": []}]},
        {"prototypes": [{"concept": 0, "prototype": 0, "nearest": []}]},
        {"format_version": 1},
    ],
)
def test_an_atlas_of_another_model_or_a_damaged_one_is_refused(tmp_path, model, change):
    atlas = write_atlas(tmp_path / "atlas", "a.png", model)
    assert len(read_neighbours(atlas, model)) == K * M
    path = atlas / "nearest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match="nearest.json"):
        read_neighbours(atlas, model)


def test_an_atlas_of_another_seed_is_refused_and_one_from_before_refining_fits(tmp_path, model):
    atlas, other = write_atlas(tmp_path / "atlas", "a.png", model), copy.deepcopy(model)
    with torch.no_grad():
        other.prototypes.proto_KMD[1, 2, 0] += 1e-6
    with pytest.raises(
        InputError, match="nearest.json: belongs to another model.*'Nodule/Mass' 2.: run"
    ) as error:
        read_neighbours(atlas, other)
    assert "Cavity" not in str(error.value) and "\n" not in str(error.value)
    other.prototypes.drop_(torch.arange(K * M).view(K, M) == M + 2)
    assert len(read_neighbours(atlas, other)) == K * M, "what was dropped is not compared"


def test_a_vector_is_named_by_the_digest_of_its_stored_bytes_and_no_spreadsheet_takes_it_for_a_number(model):
    names = vector_names(model)
    stored = model.prototypes.proto_KMD.detach()[2, 1].tolist()
    assert names[2, 1] == "v" + hashlib.sha256(struct.pack(f"<{len(stored)}f", *stored)).hexdigest()[:12]
    assert len(set(names.ravel())) == K * M


def test_a_folder_in_use_and_an_unreadable_image_are_refused(model_folder, image, tmp_path):
    with pytest.raises(InputError, match="not empty"):
        main([model_folder, str(image), "--out", str(tmp_path)])
    (tmp_path / "bad.png").write_bytes(b"junk")
    with pytest.raises(InputError, match="no image"):
        main([model_folder, str(tmp_path / "bad.png"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
