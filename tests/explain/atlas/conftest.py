"""A small atlas, its numbers, and the same computed image by image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from atlas_records import N, flags
from PIL import Image
from tiny_model import K, tiny_model

from csr.cli.atlas import main
from csr.data.images.resize import resize_file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with labels, one of them missing, an id that no file name should hold, and boxes."""
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


@pytest.fixture(scope="module")
def atlas(model_folder, data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "out"
    boxes = ("--boxes_csv", str(data / "boxes.csv"), "--batch_size", "5", "--similar", "6", "--top", "3")
    assert main(flags(model_folder, data, out, *boxes)) == 0
    return out


@pytest.fixture(scope="module")
def numbers(atlas) -> dict:
    """Everything of atlas.json."""
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
