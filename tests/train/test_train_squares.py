"""A run on images that are wider than high: the model keeps the way to a square, and boxes follow it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score
from train_command import flags, train

from csr.data.images.resize import resize_file
from csr.evaluation.predict import predict_files
from csr.model.sharing.loading import load_model

pytestmark = pytest.mark.dist
WIDTH = 128  # twice the height, noise at the right: the central square is columns 32 to 96


@pytest.fixture(scope="module")
def wide(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "data"
    shutil.copytree(phantom_folder, folder)
    rng = np.random.default_rng(0)
    for path in folder.glob("*/*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        noise = rng.integers(0, 40, (64, WIDTH - pixels.shape[1])).astype(pixels.dtype)
        Image.fromarray(np.concatenate([pixels, noise], axis=1)).save(path)
    return folder


@pytest.fixture(scope="module")
def cropped(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("cropped") / "results"
    boxes = ("--boxes_csv", str(wide / "boxes_train.csv"), "--resize", "crop")
    short = {f"epochs_stage{n}": "1" for n in (1, 2, 3)}
    done = train(*flags(wide, out, *boxes, **short))
    assert done.returncode == 0, done.stderr
    return out / "csr_exp", done.stdout


def test_the_way_is_saved_and_predictions_of_files_are_those_of_the_test(cropped, wide):
    run, _ = cropped
    model = load_model(str(run)).eval()
    assert model.card.preprocessing.resize == "crop"
    assert json.loads((run / "config.json").read_text())["options"]["data"]["resize"] == "crop"
    with open(wide / "labels_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = [next((wide / "test").glob(f"{row['image_id']}.*")) for row in rows]
    predicted = list(predict_files(model, paths, workers=1))
    results = json.loads((run / "results.json").read_text())
    compared = 0
    for name in model.card.concept_names:
        truth = [int(row[name]) for row in rows]
        if 0 < sum(truth) < len(truth):
            score = average_precision_score(truth, [one["concepts"][name] for one in predicted])
            assert results["concepts"][name]["ap"] == pytest.approx(score, abs=1e-6), name
            compared += 1
    assert compared > 3


def test_boxes_beside_the_square_are_counted_by_hand(cropped, wide):
    _, printed = cropped
    cut = outside = total = 0
    with open(wide / "boxes_train.csv", newline="") as file:
        for row in csv.DictReader(file):
            if not row["x_min"]:
                continue
            x_min, x_max = float(row["x_min"]), float(row["x_max"])
            seen = (min(x_max, 96) - max(x_min, 32)) / (x_max - x_min)
            total, outside, cut = total + 1, outside + (seen < 0.25), cut + (0.25 <= seen < 1)
    assert outside and cut
    assert (
        f"of {total} boxes {cut} are cut at the edge" in printed and f"and {outside} are not used" in printed
    )


def test_the_model_sees_the_square_alone(cropped, wide):
    run, _ = cropped
    model = load_model(str(run)).eval()
    path = next((wide / "test").glob("*.png"))
    pixels = np.asarray(Image.open(path)).copy()
    before = list(predict_files(model, [path], workers=1))[0]["concepts"]
    pixels[:, :20] = pixels.max() - pixels[:, :20]
    Image.fromarray(pixels).save(wide / "changed.png")
    after = list(predict_files(model, [wide / "changed.png"], workers=1))[0]["concepts"]
    assert after == pytest.approx(before, abs=1e-6)
    pixels[:, 40:60] = pixels.max() - pixels[:, 40:60]
    Image.fromarray(pixels).save(wide / "changed.png")
    inside = list(predict_files(model, [wide / "changed.png"], workers=1))[0]["concepts"]
    assert inside != pytest.approx(before, abs=1e-4)
    assert resize_file(path, 72, resize="crop").frame == (0.25, 0.0, 0.75, 1.0)
