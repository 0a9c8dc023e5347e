"""Predictions and measures see the square that the model was trained on."""

import pytest
import torch
from bright_model import TALL, WIDE, block_image, bright_model
from PIL import Image
from tiny_model import K

from csr.data.images.square import to_square
from csr.evaluation.bootstrap import Bootstrap
from csr.evaluation.images import open_images, read_tables
from csr.evaluation.measure import measure
from csr.evaluation.predict import diagnose, predict_files
from csr.evaluation.rows import predict_all

SCENES = {"wide": WIDE, "tall": TALL}
WAYS = ("squash", "letterbox", "crop")


@pytest.fixture
def folder(tmp_path):
    for name, scene in SCENES.items():
        Image.fromarray(block_image(scene)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
def test_files_are_predicted_from_their_square(folder, way):
    model = bright_model(way)
    paths = [folder / f"{name}.png" for name in SCENES]
    rows = list(predict_files(model, paths, batch_size=2, workers=1))
    side = model.card.preprocessing.stored_size
    for row, scene in zip(rows, SCENES.values(), strict=True):
        (height, width), _ = scene
        square = to_square(block_image(scene), height=height, width=width, resize=way, side=side)
        expected = diagnose(model, torch.from_numpy(square)[None, None].expand(1, 3, -1, -1))[0]
        assert row["concepts"] == pytest.approx(expected["concepts"], abs=1e-6)
    others = [list(predict_files(bright_model(o), paths, workers=1))[0]["concepts"] for o in WAYS if o != way]
    assert all(other != pytest.approx(rows[0]["concepts"], abs=1e-4) for other in others)


@pytest.mark.parametrize("way", WAYS)
def test_the_pointing_game_finds_the_block_in_its_box(folder, way):
    model = bright_model(way)
    names = [*model.card.concept_names, *model.card.target_names]
    table = [
        ",".join(["image_id", *names]),
        *(f"{n},{','.join(['1'] * K)},{i},{1 - i}" for i, n in enumerate(SCENES)),
    ]
    (folder / "labels.csv").write_text("\n".join(table) + "\n")
    boxes = ["image_id,class_name,x_min,y_min,x_max,y_max"]
    boxes += [f"{n},{names[0]},{','.join(map(str, scene[1]))}" for n, scene in SCENES.items()]
    beside = {"wide": (138, 20, 168, 60), "tall": (20, 140, 70, 180)}
    boxes += [f"{n},{names[1]},{','.join(map(str, corners))}" for n, corners in beside.items()]
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    tables = read_tables(
        str(folder / "labels.csv"), model.card, reader_merge="any", boxes_csv=str(folder / "boxes.csv")
    )
    images = open_images(
        *tables, str(folder), cache=folder / "cache", preprocessing=model.card.preprocessing, workers=1
    )
    rows = predict_all(model, images, batch_size=2, plays=(), alpha=0.2)
    found = measure(rows, images, model.card, kept_KM=model.prototypes.kept_KM, bootstrap=Bootstrap(0, 0))
    for name, expected in ((names[0], 1.0), (names[1], 0.0)):
        scores = found["localisation"]["labels"][name]
        assert scores["n"] == len(SCENES)
        assert scores["cam_hit"]["value"] == scores["similarity_hit"]["value"] == expected
