"""Under every way to a square, explanations and atlas point at the place of the original that was bright."""

import json

import numpy as np
import pytest
from atlas_records import flags, prototypes
from bright_model import TALL, WIDE, block_box, block_image, bright_model, is_inside
from PIL import Image
from tiny_model import K

from csr.cli.atlas import main as atlas
from csr.cli.explain import main as explain
from csr.explain import source
from csr.explain.atlas.regions import STRIP, region_on_image
from csr.explain.explanation import Explanation
from csr.explain.page import map_picture
from csr.model.sharing import loading
from csr.report.pictures import picture_of

SCENES = {"wide": WIDE, "tall": TALL}
WAYS = ("squash", "letterbox", "crop")


@pytest.fixture
def images(tmp_path):
    for name, scene in SCENES.items():
        Image.fromarray(block_image(scene)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SCENES)
def test_an_explanation_points_at_the_block(images, monkeypatch, way, name):
    monkeypatch.setattr(loading, "load_model", lambda *args, **options: bright_model(way))
    seen: list[Explanation] = []
    monkeypatch.setattr(
        "csr.explain.page.draw_sheet", lambda image, e, **options: seen.append(e) or picture_of(image)
    )
    assert (
        explain(["any", str(images / f"{name}.png"), "--out", str(images / "out"), "--max_concepts", "3"])
        == 0
    )
    record = json.loads((images / "out" / "explanation.json").read_text())
    box = block_box(SCENES[name])
    assert all(is_inside(concept["peak"], box) for concept in record["concepts"])
    assert record["image"]["frame"] == list(seen[0].frame)
    picture = picture_of(block_image(SCENES[name]))
    shown = map_picture(np.zeros_like(picture), seen[0], 0, scale=(0.0, float(seen[0].map_KHW.max())))
    ys, xs = np.nonzero(shown.min(axis=2) > 40)  # the hottest colour alone has blue in it and red
    centre = ((xs.mean() + 0.5) / shown.shape[1], (ys.mean() + 0.5) / shown.shape[0])
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    assert centre == pytest.approx(middle, abs=0.06)


@pytest.mark.parametrize("way", WAYS)
def test_the_regions_of_an_atlas_lie_on_the_block(images, monkeypatch, way):
    monkeypatch.setattr(source, "load_model", lambda *args, **options: bright_model(way))
    (images / "train").mkdir()
    names = [*bright_model(way).card.concept_names, *bright_model(way).card.target_names]
    rows = [f"{name},{','.join(['1'] * K)},1,0" for name in SCENES]
    boxes = ["image_id,class_name,x_min,y_min,x_max,y_max"]
    for name, scene in SCENES.items():
        Image.fromarray(block_image(scene)).save(images / "train" / f"{name}.png")
        boxes.append(f"{name},{names[0]},{','.join(map(str, scene[1]))}")
    (images / "labels.csv").write_text("\n".join([",".join(["image_id", *names]), *rows]) + "\n")
    (images / "boxes.csv").write_text("\n".join(boxes) + "\n")
    out = images / "atlas"
    assert atlas(flags("any", images, out, "--boxes_csv", str(images / "boxes.csv"))) == 0
    numbers = json.loads((out / "atlas.json").read_text())
    for k, _, record in prototypes(numbers):
        assert len(record["nearest"]) == 2
        for one in record["nearest"]:
            box = block_box(SCENES[one["image_id"]])
            assert is_inside(one["peak"], box) and is_inside(one["cam_peak"], box)
            middle = ((one["box"][0] + one["box"][2]) / 2, (one["box"][1] + one["box"][3]) / 2)
            assert is_inside(middle, box) and not one["in_black"]
            assert one["in_box"] is (True if k == 0 else None), "boxes and cells are compared in one square"
        crop = np.asarray(Image.open(out / record["crop"]).convert("L"))
        assert crop.mean() > 140, "what is cut out is the block"
    page = (out / "concept_000.html").read_text()
    frame = {"squash": "width:100.00%;height:100.00%", "letterbox": "left:0.00%;top:-", "crop": "top:0.00%"}
    assert frame[way] in page


def test_regions_are_cut_at_the_image_and_strips_stand_for_regions_in_the_black():
    frame = (0.0, -0.5, 1.0, 1.5)
    assert region_on_image((0.25, 0.5, 0.5, 0.75), frame) == ((0.25, 0.5, 0.5, 1.0), False)
    assert region_on_image((0.0, 0.125, 0.5, 0.375), frame) == ((0.0, 0.0, 0.5, 0.25), False)
    assert region_on_image((0.0, 0.0, 0.5, 0.25), frame) == ((0.0, 0.0, 0.5, STRIP), True)
    assert region_on_image((0.5, 0.875, 0.75, 1.0), frame) == ((0.5, 1 - STRIP, 0.75, 1.0), True)
