"""Missing and unreadable images, boxes, backbones and weights: refused with one line, nothing written."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from csv_edits import edit, first_image
from PIL import Image


def test_missing_and_unreadable_images_of_both_folders_are_listed_together(refused, data):
    train_files, test_files = (sorted((data / split).iterdir()) for split in ("train", "test"))
    train_files[0].unlink()
    train_files[1].write_bytes(b"this is no image")
    test_files[0].unlink()
    test_files[1].write_bytes(test_files[1].read_bytes()[:200])
    line = refused()
    for file in (*train_files[:2], *test_files[:2]):
        assert file.stem in line


def test_unreadable_images_of_both_folders_are_listed_together_with_their_lines(refused, data):
    broken = [data / "train" / next((data / "train").iterdir()).name, next((data / "test").iterdir())]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(b"\x89PNG\r\n\x1a\n")
    line = refused()
    assert all(str(file) in line for file in broken)
    assert "labels_train.csv line" in line and "labels_test.csv line" in line


def test_of_many_missing_images_twenty_are_listed_and_the_rest_counted(refused, data):
    files = sorted((data / "train").iterdir())
    for file in files[:25]:
        file.unlink()
    line = refused()
    assert sum(file.stem in line for file in files[:25]) == 20
    assert "25 image(s)" in line and "5 more" in line and "--on_bad_image quarantine" in line


def test_a_missing_image_folder_is_named(refused, tmp_path):
    assert f"{tmp_path / 'absent'}: no such folder" in refused(test_dir=tmp_path / "absent")


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_an_id_that_leaves_the_folder_is_refused(refused, data, tmp_path, kind):
    outside = tmp_path / "outside.png"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(outside)
    name = {"parent": "../../outside", "absolute": str(outside.with_suffix("")), "link": "linked"}[kind]
    if kind == "link":
        (data / "train" / "linked.png").symlink_to(outside)
    edit(data / "labels_train.csv", lambda rows: [row.__setitem__(0, name) for row in rows[1:4]])
    line = refused()
    assert "labels_train.csv" in line and "line 2" in line and name[:12] in line


@pytest.mark.parametrize(
    "row, named",
    [
        ("{id},Cavity,5,5,2,9", "line 2"),
        ("{id},Cavity,a,5,8,9", "x_min"),
        ("absent,Cavity,1,1,2,2", "absent"),
        ("{id},Cavity,1,1,900,2", "outside"),
        ("{id},Nonsense,1,1,2,2", "Nonsense"),
    ],
)
def test_bad_boxes_are_refused_with_their_line(refused, data, row, named):
    path = data / "boxes.csv"
    header = "image_id,class_name,x_min,y_min,x_max,y_max\n"
    path.write_text(header + row.format(id=first_image(data)) + "\n")
    line = refused("--boxes_csv", str(path))
    assert str(path) in line and named in line


def test_a_feature_map_of_one_cell_is_refused(refused):
    assert "feature map is 1x1" in (line := refused(image_size="16")) and "larger images" in line


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"model_name": "resnet1234"}, "no such model"),
        ({"model_name": None}, "name the timm model"),
        ({"backbone_type": "vit", "model_name": "resnet18"}, "no vit"),
        ({"backbone_type": "nn"}, "--backbone_type"),
    ],
)
def test_an_unknown_backbone_is_refused(refused, changed, named):
    assert named in refused(**changed)


class Bomb:
    """Its unpickling creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def weights_file(kind: str, folder: Path) -> Path:
    path = folder / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": Bomb(folder / "ran")}))
    elif kind == "torch pickle":
        torch.save({"weight": Bomb(folder / "ran")}, path)
    elif kind == "other model":
        torch.save(torch.nn.Linear(3, 3).state_dict(), path)
    elif kind == "partial":
        import timm

        state = timm.create_model("test_resnet").state_dict()
        torch.save({k: v for k, v in state.items() if "layer3" not in k}, path)
    elif kind == "wrong shapes":
        import timm

        torch.save({k: v.flatten() for k, v in timm.create_model("test_resnet").state_dict().items()}, path)
    elif kind in ("text", "safetensors"):
        path.write_text("no weights at all")
    return path


@pytest.mark.parametrize(
    "kind",
    ["absent", "text", "safetensors", "pickle", "torch pickle", "other model", "partial", "wrong shapes"],
)
def test_weights_that_do_not_fit_are_refused_and_never_run(refused, tmp_path, kind):
    path = weights_file(kind, tmp_path)
    assert str(path) in refused(backbone_weights=path)
    assert not (tmp_path / "ran").exists()


def test_pretrained_weights_that_cannot_be_had_offline_name_the_ways_out(refused):
    line = refused("--pretrained")
    assert "--backbone_weights" in line and "--no_pretrained" in line


def test_contradicting_weights_flags_are_refused(refused, tmp_path):
    line = refused("--no_pretrained", backbone_weights="x.pth")
    assert "--no_pretrained contradicts --backbone_weights" in line
