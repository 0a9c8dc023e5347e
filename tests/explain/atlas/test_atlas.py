"""The atlas says what the network computed: against plain loops, and as a folder that stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import TARGETS, K, M, tiny_model, write_run

from csr.cli.atlas import main
from csr.cli.explain import main as explain
from csr.data.images.resize import resize_file
from csr.data.labels.table import read_label_table
from csr.data.labels.validation_split import split_validation
from csr.explain.atlas.hints import hints
from csr.explain.atlas.regions import box_around, is_in, peak_of, region_around_peak, sight_of
from csr.explain.atlas.scan import NONE, BestImages, Counter
from csr.explain.neighbours import read_neighbours
from csr.model.layers.prototypes import winners
from csr.runtime.errors import InputError

N = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with labels, one of them not annotated, an id that no file name should hold, and boxes."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "train" / "sub").mkdir(parents=True)
    rng = np.random.default_rng(4)
    lines = ["image_id,Cavity,Nodule/Mass,<b>Pleural | effusion,Tuberculosis,No finding"]
    for i in range(N):
        name = "sub/a&b 'x" if i == 3 else f"im{i}"
        Image.fromarray(rng.integers(0, 256, (50 + i, 80), dtype=np.uint8)).save(
            folder / "train" / f"{name}.png"
        )
        lines.append(
            f"{name},{i % 2},{'' if i == 5 else int(i > 6)},{int(i in (1, 2))},{i % 3 // 2},{int(i % 2 == 0)}"
        )
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    boxes = ["image_id,class_name,x_min,y_min,x_max,y_max"]
    for i in (1, 5, 7, 9):  # the whole image, or a pixel in the corner
        boxes.append(f"im{i},Cavity,0,0,{80 if i < 6 else 1},{50 if i < 6 else 1}")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    return folder


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(model.save_pretrained(tmp_path_factory.mktemp("model") / "small"))


def flags(model_folder: str, data: Path, out: Path, *more: str) -> list[str]:
    given = [model_folder, "--csv", str(data / "labels.csv"), "--dir", str(data / "train"), "--out", str(out)]
    return [*given, "--workers", "1", *more]


@pytest.fixture(scope="module")
def atlas(model_folder, data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "out"
    boxes = ("--boxes_csv", str(data / "boxes.csv"), "--batch_size", "5", "--similar", "6", "--top", "3")
    assert main(flags(model_folder, data, out, *boxes)) == 0
    return out


@pytest.fixture(scope="module")
def told(atlas) -> dict:
    return json.loads((atlas / "atlas.json").read_text())


@pytest.fixture(scope="module")
def seen(model, data):
    """What the model computes image by image, and the labels: the source of every expected number."""
    rows = [line.split(",") for line in (data / "labels.csv").read_text().splitlines()[1:]]
    images = [resize_file(data / "train" / f"{row[0]}.png", 72).pixels_CSS for row in rows]
    transform = model.card.preprocessing.transform()
    with torch.no_grad():
        feats = [model.features(transform(torch.from_numpy(image)[None])) for image in images]
        cams = [model.cams(feat) for feat in feats]
        vectors = [model.projector(model.local_vectors(f, c))[0] for f, c in zip(feats, cams, strict=True)]
        maps = torch.cat([model.similarity_maps(feat) for feat in feats])
    labels = np.array([[float(cell) if cell else np.nan for cell in row[1:]] for row in rows])
    cosine = torch.stack(
        [torch.stack([model.prototypes.unit()[k] @ vector[k] for k in range(K)]) for vector in vectors]
    ).detach()
    return [row[0] for row in rows], labels, cosine.numpy(), maps.numpy(), torch.cat(cams).numpy()


def prototypes(told: dict):
    for concept in told["concepts"]:
        for record in concept["prototypes"]:
            yield concept["concept"], record["prototype"], record


def test_wins_and_maxima_equal_a_loop_over_images(told, seen):
    _, labels, cosine, maps, _ = seen
    wins, present, everywhere = (np.zeros((K, M), dtype=int) for _ in range(3))
    for i in range(N):
        for k in range(K):
            best = max(range(M), key=lambda m: maps[i, k, m].max())
            everywhere[k, best] += 1
            if labels[i, k] == 1:
                present[k, best] += 1
                wins[k, max(range(M), key=lambda m: cosine[i, k, m])] += 1
    assert wins.sum() == np.nansum(labels[:, :K]) > 0
    for k, m, record in prototypes(told):
        assert (record["wins"], record["max_present"], record["max_all"]) == (
            wins[k, m],
            present[k, m],
            everywhere[k, m],
        )
        assert record["alive"] == bool(wins[k, m] or present[k, m])


def test_scores_weights_and_effects_equal_numpy(told, seen, model):
    _, labels, _, maps, _ = seen
    for k, m, record in prototypes(told):
        score = maps[:, k, m].max(axis=(1, 2)).astype(np.float64)
        expected = {
            "mean": score.mean(),
            "sd": score.std(),
            "mean_present": score[labels[:, k] == 1].mean(),
            "mean_absent": score[labels[:, k] == 0].mean(),
        }
        assert record["score"] == pytest.approx(expected, abs=1e-5)
        for t, name in enumerate(TARGETS):
            weight = float(model.task_head.linear.weight.detach()[t, k * M + m])
            assert record["weights"][name]["weight"] == pytest.approx(weight)
            assert record["weights"][name]["effect"] == pytest.approx(weight * score.std(), abs=1e-5)


def test_nearest_are_the_images_with_the_concept_by_cosine_and_regions_equal_a_loop(told, seen):
    names, labels, cosine, maps, cams = seen
    for k, m, record in prototypes(told):
        order = sorted((i for i in range(N) if labels[i, k] == 1), key=lambda i: -cosine[i, k, m])[:3]
        assert [one["image_id"] for one in record["nearest"]] == [names[i] for i in order]
        for one, i in zip(record["nearest"], order, strict=True):
            assert one["similarity"] == pytest.approx(cosine[i, k, m], abs=1e-5)
            cells = flood(maps[i, k, m])
            height, width = maps.shape[3:]
            xs, ys = [x for _, x in cells], [y for y, _ in cells]
            box = [min(xs) / width, min(ys) / height, (max(xs) + 1) / width, (max(ys) + 1) / height]
            assert one["box"] == pytest.approx(box)
            share = np.exp(cams[i, k] - cams[i, k].max())
            share /= share.sum()
            assert one["cam_share"] == pytest.approx(sum(share[y, x] for y, x in cells), abs=1e-5)


def flood(map_HW: np.ndarray) -> list[tuple[int, int]]:
    """Cells reached from the peak by steps to neighbours in the upper quarter of the map's range."""
    limit = float(map_HW.min()) + 0.75 * (float(map_HW.max()) - float(map_HW.min()))
    todo = [tuple(np.unravel_index(map_HW.argmax(), map_HW.shape))]
    found = set(todo)
    while todo:
        y, x = todo.pop()
        for ny, nx in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            inside = 0 <= ny < map_HW.shape[0] and 0 <= nx < map_HW.shape[1]
            if inside and map_HW[ny, nx] >= limit and (ny, nx) not in found:
                found.add((ny, nx))
                todo.append((ny, nx))
    return sorted(found)


def test_a_region_is_what_is_connected_to_the_peak():
    map_HW = np.array([[9, 8, 0, 7], [6, 7, 0, 6], [0, 0, 7, 0]], dtype=np.float32)
    expected = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert (region_around_peak(map_HW) == expected).all(), (
        "neither the other hill nor the cell across a corner"
    )
    assert box_around(expected) == (0.0, 0.0, 0.5, pytest.approx(2 / 3))
    assert peak_of(map_HW) == (0.125, pytest.approx(1 / 6))
    attention = np.zeros((3, 4))
    attention[1, 1], attention[1, 3] = 0.25, 0.75
    sight = sight_of(map_HW, attention)
    assert sight.cam_share == 0.25 and sight.cam_peak == (0.875, 0.5) and sight.score == 9
    flat = np.zeros((2, 3), dtype=np.float32)
    assert region_around_peak(flat).all() and box_around(region_around_peak(flat)) == (0.0, 0.0, 1.0, 1.0)


def test_random_regions_equal_the_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        map_HW = rng.normal(size=(6, 5)).astype(np.float32)
        assert [tuple(cell) for cell in np.argwhere(region_around_peak(map_HW))] == flood(map_HW)


def test_the_most_similar_images_are_those_with_the_highest_scores_whatever_their_labels(told, seen):
    names, labels, _, maps, _ = seen
    for k, m, record in prototypes(told):
        score = maps[:, k, m].max(axis=(1, 2))
        order = sorted(range(N), key=lambda i: -score[i])[:6]
        similar = record["similar"]
        assert similar["image_ids"] == [names[i] for i in order]
        assert similar["concept"] == pytest.approx(np.nanmean(labels[order, k]))
        for t, name in enumerate(TARGETS):
            assert similar["targets"][name] == pytest.approx(labels[order, K + t].mean())
        peaks = np.array([peak_of(maps[i, k, m]) for i in order])
        assert similar["peak_mean"] == pytest.approx(peaks.mean(axis=0))
        assert similar["peak_spread"] == pytest.approx(np.sqrt(peaks.var(axis=0).sum()))


def test_whether_a_peak_lies_in_a_box_is_told_where_there_are_boxes(told, data):
    found = {}
    for k, _, record in prototypes(told):
        for one in record["nearest"]:
            in_corner = max(one["peak"]) < 0.5  # of the tiny model's map of 2 x 2 cells
            expected = {"im1": True, "im5": True, "im7": in_corner, "im9": in_corner} if k == 0 else {}
            assert one["in_box"] == expected.get(one["image_id"])
            found.setdefault(one["image_id"] in expected, set()).add(one["in_box"])
    assert found[True] == {True, False} and found[False] == {None}


def test_a_cell_is_in_a_box_as_the_pointing_game_has_it_and_no_box_is_too_small_for_any():
    rng, size = np.random.default_rng(0), 7
    cells = [(x / size, y / size, (x + 1) / size, (y + 1) / size) for y in range(size) for x in range(size)]
    for _ in range(300):
        low = rng.uniform(0, 0.95, 2)
        box_R4 = np.array([[*low, *np.minimum(1, low + rng.choice([0.004, 0.1, 0.3], 2))]])
        inside = np.array([is_in(cell, box_R4)[0] for cell in cells])
        assert inside.any()
        if (box_R4[0, 2:] - box_R4[0, :2] > 1 / size).all():
            centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in cells]
            expected = [(box_R4[0, :2] <= c).all() and (c <= box_R4[0, 2:]).all() for c in centres]
            assert inside.tolist() == expected
    assert not is_in(cells[0], np.array([[1 / 7, 0.0, 0.5, 0.5]])).any(), "to touch is not enough"
    corner = np.array([[1 / 7 - 0.01, 1 / 7 - 0.01, 1 / 7 + 0.01, 1 / 7 + 0.01]])
    assert [i for i, cell in enumerate(cells) if is_in(cell, corner)[0]] == [0, 1, 7, 8]


def hints_of(
    *, concept: float, at_most: float = 1.0, share: float = 0.0, predicted: float = 0.0
) -> list[str]:
    similar = {
        "images": 20,
        "peak_mean": [0.5, 0.5],
        "peak_spread": 0.3,
        "with_boxes": 0,
        "in_box": None,
        "concept": concept,
        "concept_at_most": at_most,
        "targets": {"TB": share},
        "predicted": {"TB": predicted},
        "annotated": {"TB": 20},
    }
    return hints({"alive": True, "similar": similar})


def test_a_rare_concept_is_compared_with_what_its_images_can_fill():
    assert hints_of(concept=0.2, at_most=0.2) == [] == hints_of(concept=0.1, at_most=0.2)
    assert hints_of(concept=0.0, at_most=0.0) == [], "of no image with it nothing can be said"
    assert hints_of(concept=0.05, at_most=0.2) == [
        "its images lack the concept (5% have it, at most 20% could)"
    ]
    assert hints_of(concept=0.45) == ["its images lack the concept (45% have it)"]


def test_a_shared_diagnosis_is_told_where_the_concept_does_not_explain_it():
    told = ["its images share TB (100%) more than the concept explains (50%)"]
    assert hints_of(concept=1.0, share=1.0, predicted=0.5) == told
    for share, predicted in ((1.0, 1.0), (1.0, 0.9), (0.75, 0.5), (0.25, 0.1), (0.5, 0.9)):
        assert hints_of(concept=1.0, share=share, predicted=predicted) == [], (
            "follows from the concept, or chance"
        )


def test_what_the_concept_predicts_of_a_diagnosis_equals_a_loop(told, seen):
    names, labels, *_ = seen
    label_of = dict(zip(names, labels, strict=True))
    for k, _, record in prototypes(told):
        similar, concept = record["similar"], record["similar"]["concept"]
        rows = [label_of[name] for name in similar["image_ids"]]
        known = [row for row in rows if not np.isnan(row[k])]
        positives = sum(row[k] == 1 for row in labels)
        assert similar["concept_at_most"] == min(positives, len(known)) / len(known)
        for t, name in enumerate(TARGETS):
            given = [np.mean([row[K + t] for row in labels if row[k] == value]) for value in (1, 0)]
            assert similar["predicted"][name] == pytest.approx(concept * given[0] + (1 - concept) * given[1])
            assert similar["annotated"][name] == 6


def test_the_best_of_many_batches_are_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    value = torch.randint(0, 9, (40, 2, 3), generator=generator).float()  # with equal ones
    value[torch.rand(40, 2, 3, generator=generator) < 0.3] = -torch.inf
    value[:, 1, 2] = -torch.inf
    value[7, 1, 2] = 0.5
    best = BestImages(2, 3, 5, device=torch.device("cpu"))
    for chunk in torch.arange(40).split(7):
        best.add(value[chunk], chunk)
    for k, m in np.ndindex(2, 3):
        usable = [i for i in range(40) if value[i, k, m] > -torch.inf]
        expected = sorted(usable, key=lambda i: (-float(value[i, k, m]), i))[:5]
        assert best.image_KML[k, m].tolist() == expected + [NONE] * (5 - len(expected))


def test_batches_do_not_change_what_is_counted(model):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(9, 3, 64, 64, generator=generator)
    concept = torch.rand(9, K, generator=generator).round()
    results = []
    for size in (9, 2):
        counter = Counter(model, top=4, similar=4)
        with torch.no_grad():
            for rows in torch.arange(9).split(size):
                counter.add({"image": image[rows], "concept": concept[rows], "position": rows})
        results.append(counter.result())
    for name in ("wins_KM", "max_present_KM", "max_all_KM", "mean_KM", "sd_KM"):
        torch.testing.assert_close(getattr(results[0], name), getattr(results[1], name), rtol=0, atol=1e-6)
    assert torch.equal(results[0].vectors.image_KML, results[1].vectors.image_KML)


def test_a_winner_is_never_a_dropped_prototype():
    score = torch.tensor([[[0.0, -0.5, -0.2], [0.0, 0.0, 0.0]]])
    kept = torch.tensor([[False, True, True], [False, False, False]])
    assert winners(score, kept).tolist() == [[2, -1]]
    assert winners(score, torch.ones(2, 3) > 0).tolist() == [[0, 0]]


# the folder


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        self.ids |= {given["id"] or ""} if "id" in given else set()


def test_every_link_leads_to_something_inside_the_folder(atlas):
    pages = {path.name: Page(path.read_text()) for path in atlas.glob("*.html")}
    assert sorted(pages) == ["concept_000.html", "concept_001.html", "concept_002.html", "index.html"]
    for name, page in pages.items():
        assert "script" not in page.tags and "b" not in page.tags[: page.tags.index("body")]
        for address in page.addresses:
            if address.startswith("data:image/png;base64,"):
                continue
            file, _, anchor = address.partition("#")
            target = atlas / unquote(file) if file else atlas / name
            assert not re.match(r"[a-z]+:|/|\.\.", address) and target.is_file(), address
            assert not anchor or anchor in pages[target.name].ids, address
    text = (atlas / "concept_002.html").read_text()
    assert "&lt;b&gt;Pleural | effusion" in text and "<b>Pleural" not in text
    linked = {unquote(address) for page in pages.values() for address in page.addresses}
    pictures = {str(p.relative_to(atlas)) for p in atlas.rglob("*") if p.suffix in (".png", ".jpg")}
    assert pictures <= linked, "no picture without a page"


def test_crops_have_predictable_names_and_nearest_json_is_what_explain_reads(
    atlas, model_folder, data, tmp_path
):
    crops = sorted(str(p.relative_to(atlas)) for p in (atlas / "prototypes").iterdir())
    assert crops == sorted(f"prototypes/c{k:03d}_p{m:03d}.png" for k in range(K) for m in range(M))
    assert max(Image.open(atlas / crops[0]).size) == 160
    found = read_neighbours(atlas, tiny_model())
    assert {one.image_id for near in found.values() for one in near} >= {"im1", "sub/a&b 'x"}
    assert len(found) == K * M and all(one.image.is_file() for near in found.values() for one in near)
    assert found[0, 0][0].similarity >= found[0, 0][1].similarity
    assert "/" not in {p.name for p in (atlas / "images").iterdir()} and not list(atlas.rglob("*'*"))
    out = tmp_path / "explained"
    assert (
        explain([model_folder, str(data / "train" / "im1.png"), "--out", str(out), "--atlas", str(atlas)])
        == 0
    )
    told = json.loads((out / "explanation.json").read_text())
    assert any(concept["training_regions"] for concept in told["concepts"])
    assert "training region behind the prototype" in (out / "index.html").read_text()


def test_keep_csv_has_a_row_for_every_prototype_all_kept(atlas, told):
    lines = (atlas / "keep.csv").read_text().splitlines()
    assert lines[0] == "concept,prototype,keep,wins,alive,top_weight,top_target,note,vector"
    assert len(lines) == 1 + K * M
    first = next(prototypes(told))[2]
    assert lines[1].startswith(f"Cavity,0,1,{first['wins']},{int(first['alive'])},")
    assert lines[1].endswith(f",{first['vector']}") and lines[1] != lines[2]


def test_a_run_is_looked_at_without_its_validation_images(model, data, tmp_path, capsys):
    run = write_run(tmp_path / "runs" / "r", model)
    config = json.loads((run / "config.json").read_text())
    config["options"]["data"] = {
        "train_csv": str(data / "labels.csv"),
        "train_dir": str(data / "train"),
        "val_fraction": 0.25,
    }
    (run / "config.json").write_text(json.dumps(config))
    assert main([str(run), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    told = json.loads((tmp_path / "out" / "atlas.json").read_text())
    table = read_label_table(data / "labels.csv", target_cols=TARGETS)
    train, val = split_validation(table, fraction=0.25, seed=0)
    assert told["images"] == len(train) < N
    assert f"{len(val)} validation images are left out" in capsys.readouterr().out
    named = {one["image_id"] for _, _, record in prototypes(told) for one in record["nearest"]}
    assert named and not named & {table.image_ids[i] for i in val}
    assert list((tmp_path / "runs" / ".cache" / "images").iterdir()), "the run's cache of images is used"
    assert "/" not in told["csv"]


def test_a_folder_in_use_is_refused_and_edited_decisions_survive_an_overwrite(model_folder, data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        with pytest.raises(InputError, match="not empty|other files"):
            main(flags(model_folder, data, out, *more))
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    out = tmp_path / "second"
    assert main(flags(model_folder, data, out, "--top", "1")) == 0
    (out / "keep.csv").write_text("edited")
    with pytest.raises(InputError, match="not empty"):
        main(flags(model_folder, data, out))
    assert main(flags(model_folder, data, out, "--overwrite", "--top", "1")) == 0
    assert (out / "keep_old.csv").read_text() == "edited" and "Cavity" in (out / "keep.csv").read_text()


def test_what_cannot_be_used_is_told_in_one_line(model, model_folder, data, tmp_path):
    with pytest.raises(InputError, match="--csv and --dir"):
        main([model_folder, "--out", str(tmp_path / "out")])
    run = write_run(tmp_path / "run", model)
    with pytest.raises(InputError, match="secret/train.csv: no such file.*--csv"):
        main([str(run), "--out", str(tmp_path / "out")])
    config = json.loads((run / "config.json").read_text())
    for options in (
        {"model": {"nonsense": 1}},
        {"data": {"val_fraction": "x"}},
        {"data": {"workers": 0}},
        [],
    ):
        (run / "config.json").write_text(json.dumps({**config, "options": options}))
        with pytest.raises(InputError):
            main([str(run), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
