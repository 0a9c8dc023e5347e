"""Valid files with random damage: the result is always a value or an InputError."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import HEADER, mutate, survives
from hostile_pictures import GREY, RGB, dicom, nested, saved
from mae_weights import HF
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from safetensors.torch import save
from weight_files import STATE, torch_bytes

from csr.data.image_cache.cache_file import is_complete
from csr.data.image_cache.parts import read_index, read_noted, write_noted, write_part
from csr.data.images.decode import decode_image
from csr.data.labels.boxes import read_boxes
from csr.data.labels.table import read_label_table
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.model import CSR
from csr.model.backbones.vit_architecture import architecture_of_config
from csr.model.tensor_file import read_tensors
from csr.runtime.tensor_files import load_tensors
from csr.training.checkpoints.checkpoint_folder import DamagedError, verified

ROUNDS = 25  # changes of one file in one case
SEEDS = range(4)
MANY = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 140)]
LABELS = f"{HEADER},patient_id\n" + "".join(f"im{n},R{n % 2},{n & 1},0,1.0,,p{n}\n" for n in range(40))
BOXES = "image_id,class_name,x_min,y_min,x_max,y_max\n" + "".join(
    f"im{n},Cavity,{n},1.5,{n + 9},2e1\n" for n in range(20)
)


def check_image(path: Path) -> None:
    shown = decode_image(path, min_size=8)
    assert shown.pixels.dtype == np.uint8 and shown.pixels.shape[2:] in ((), (3,))
    assert 0 < shown.height * shown.width <= 2**26


def check_labels(path: Path) -> None:
    table = read_label_table(path)
    labels = np.concatenate([table.concept_NK, table.target_NT], axis=1)
    assert (np.isnan(labels) | ((labels >= 0) & (labels <= 1))).all() and len(labels) == len(table)


def check_boxes(path: Path) -> None:
    labels = path.with_name("labels.csv")
    labels.write_text(LABELS)
    boxes = read_boxes(path, table=read_label_table(labels))
    assert np.isfinite(boxes.pixel_R4).all() and (boxes.pixel_R4[:, :2] < boxes.pixel_R4[:, 2:]).all()


def check_ds(path: Path) -> None:
    parsed, name = load_ds_config(str(path), "fp32")
    merge_ds_config(parsed, name=name, batch_size=16, accumulation=1, clip=1.0, world_size=1)


def check_tensors(path: Path) -> None:
    for value in read_tensors(path).values():
        assert value.untyped_storage().nbytes() <= path.stat().st_size
        value.float().sum()


PICTURES: dict[str, bytes] = {
    "png": saved(GREY, "PNG"),
    "png palette": saved(Image.fromarray(RGB).quantize(9), "PNG", transparency=3),
    "png 16 bit": saved(GREY.astype(np.uint16) * 257, "PNG"),
    "jpeg": saved(RGB, "JPEG"),
    "jpeg cmyk": saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "jpeg progressive": saved(
        RGB,
        "JPEG",
        progressive=True,
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    ),
    "gif": saved(GREY, "GIF"),
    "webp": saved(RGB, "WEBP"),
    "bmp": saved(RGB, "BMP"),
    "jp2": saved(RGB, "JPEG2000"),
    "tiff": saved(RGB, "TIFF"),
    "tiff lzw": saved(GREY, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": saved(RGB, "TIFF", compression="jpeg"),
    "dicom": dicom(WindowCenter=900, WindowWidth=800),
    "dicom rgb": dicom(RGB),
    "dicom nested": dicom(ContentSequence=nested(5)),
    "dicom jpeg": dicom(GREY, syntax=JPEGBaseline8Bit, PixelData=encapsulate([saved(GREY, "JPEG")])),
    "dicom jp2": dicom(
        GREY, syntax=JPEG2000Lossless, PixelData=encapsulate([saved(GREY, "JPEG2000", no_jp2=True)])
    ),
    "dicom rle": dicom(
        GREY, syntax=RLELossless, PixelData=encapsulate([b"\1\0\0\0\x40" + bytes(59) + b"\x81\x07" * 4])
    ),
}
FILES: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    **{name: ("a.png", content, check_image) for name, content in PICTURES.items()},
    "labels": ("labels_.csv", LABELS.encode(), check_labels),
    "boxes": ("boxes.csv", BOXES.encode(), check_boxes),
    "quoted labels": ("labels_.csv", LABELS.replace("im1,", '"im1",').encode(), check_labels),
    "ds config": (
        "ds.json",
        json.dumps({"zero_optimization": {"stage": 2}, "fp16": {"enabled": False}}).encode(),
        check_ds,
    ),
    "pth": ("w.pth", torch_bytes({"model": STATE, "epoch": 3}), check_tensors),
    "legacy pth": ("w.bin", torch_bytes(STATE, _use_new_zipfile_serialization=False), check_tensors),
    "safetensors": ("w.safetensors", save({**STATE, "h": torch.ones(4, dtype=torch.float16)}), check_tensors),
    "checkpoint": ("state.pth", torch_bytes({"state": {"a": [1, 2.5, "x"]}, "ranks": [STATE]}), load_tensors),
    "hugging face": ("config.json", json.dumps(HF).encode(), architecture_of_config),
}


@pytest.mark.parametrize("seed", [*SEEDS, *MANY])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_gives_a_value_or_an_input_error(tmp_path, name, seed):
    file_name, content, call = FILES[name]
    path = tmp_path / file_name
    path.write_bytes(content)
    assert survives(lambda: call(path)) or name == "dicom rle", "the whole file is refused"
    results = []
    for number in range(ROUNDS):
        damaged = mutate(content, 1000 * seed + number)
        path.write_bytes(damaged)
        results.append(survives(lambda: call(path)))
        assert path.read_bytes() == damaged, "the file was written"
    assert len(results) == ROUNDS


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = CSR(
        num_concepts=2,
        num_classes=2,
        backbone_type="timm",
        model_name="test_vit3",
        image_size=32,
        embedding_dim=4,
    )
    return model.save_pretrained(tmp_path_factory.mktemp("exported") / "model")


@pytest.mark.parametrize("seed", [*SEEDS, *MANY[:10]])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_model_folder_gives_a_model_or_an_input_error(tmp_path, exported, name, seed):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (exported / name).read_bytes()
    # in the head of the weights a change is more than another number
    head = content if name == "config.json" else content[:9000]
    for number in range(4):
        (tmp_path / name).write_bytes(mutate(head, 1000 * seed + number) + content[len(head) :])
        survives(lambda: CSR.from_pretrained(tmp_path))


@pytest.mark.parametrize("seed", [*SEEDS, *MANY[:10]])
def test_a_damaged_manifest_is_never_taken_for_whole(tmp_path, seed):
    from csr.training.checkpoints.checkpoint_folder import CheckpointFolder

    path = CheckpointFolder(tmp_path, keep=1, identity={"options": {}}).write(
        STATE, place={"step": 1}, best={}
    )
    content = (path / "manifest.json").read_bytes()
    plain = json.loads(content)
    for number in range(ROUNDS):
        damaged = mutate(content, 1000 * seed + number)
        (path / "manifest.json").write_bytes(damaged)
        try:
            found: Any = verified(path)
        except DamagedError:
            continue
        assert found == {k: v for k, v in plain.items() if k != "sha256"}, "only blanks may differ"


@pytest.mark.parametrize("seed", [*SEEDS, *MANY[:10]])
def test_damaged_files_of_the_image_cache_are_not_used(tmp_path, seed):
    image = tmp_path / "a.png"
    image.write_bytes(saved(GREY, "PNG"))
    part = tmp_path / "x.part"
    write_part(part, [image] * 3, size=4, workers=1, progress=None)
    write_noted(tmp_path / "x.bin", [0, 2])
    notes = tmp_path / "x.unreadable.json"
    for file, look in (
        (part, lambda: read_index(part)),
        (notes, lambda: read_noted(tmp_path / "x.bin", 3)),
        (tmp_path / "x.bin", lambda: is_complete(tmp_path / "x.bin", 3, 4)),
    ):
        content = file.read_bytes() if file.exists() else bytes(32 + 3 * 24)
        for number in range(ROUNDS):
            file.write_bytes(mutate(content, 1000 * seed + number))
            look()
