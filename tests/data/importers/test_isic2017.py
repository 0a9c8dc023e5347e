"""`csr data isic2017`: features of superpixels become concepts with boxes, part 3 becomes targets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import raw_sets
from PIL import Image, ImageOps

from csr.data.importers.isic2017_features import regions
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError

TARGETS = ("melanoma", "seborrheic_keratosis", "nevus")
FIRST = "ISIC-2017_Training_Data/ISIC_0000001"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_sets.isic2017(tmp_path_factory.mktemp("isic") / "raw")


@pytest.fixture
def raw(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "raw"))


def test_a_feature_of_any_superpixel_is_a_concept_and_neither_diagnosis_is_a_nevus(published, bring_in):
    out = bring_in("isic2017", published)
    table = read_label_table(out / "labels_train.csv", target_cols=TARGETS)
    assert table.concept_names == raw_sets.ISIC_FEATURES and len(table) == 8
    wanted = np.eye(4)[np.arange(8) % 4]
    wanted[0] = 0  # image 0 has no feature in any superpixel
    np.testing.assert_array_equal(table.concept_NK, wanted)
    np.testing.assert_array_equal(table.target_NT, np.eye(3)[np.arange(8) % 3])
    assert read_label_table(out / "labels_test.csv", vocabulary=table).image_ids[0] == "ISIC_0000010"


def test_touching_superpixels_make_one_box(published, bring_in, rows_of):
    rows = rows_of(bring_in("isic2017", published) / "boxes_train.csv")
    found = [
        tuple(int(r[s]) for s in ("x_min", "y_min", "x_max", "y_max"))
        for r in rows
        if r["image_id"][-1] == "1"
    ]
    assert found == [(0, 0, 20, 10), (70, 50, 80, 60)], "superpixels 0 and 1, and 47"
    assert len(rows) == 14


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_a_lesion_that_is_shown_turned(raw, bring_in, rows_of, orientation):
    """The superpixels with the feature are bright: they are where a viewer, and csr, shows them."""
    pixels = np.full((60, 80, 3), 20, dtype=np.uint8)
    pixels[0:10, 0:20] = pixels[50:60, 70:80] = 230
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = raw / f"{FIRST}.jpg"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path))).mean(axis=2)
    inside = np.zeros(shown.shape, dtype=bool)
    for row in rows_of(bring_in("isic2017", raw) / "boxes_train.csv"):
        if row["image_id"] == "ISIC_0000001":
            x_min, y_min, x_max, y_max = (int(row[side]) for side in ("x_min", "y_min", "x_max", "y_max"))
            inside[y_min:y_max, x_min:x_max] = True
    np.testing.assert_array_equal(inside, shown > 125)


def test_regions_are_those_of_a_flood_fill():
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) < 0.25
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    boxes = []
    while left:
        todo, seen = [min(left)], set()
        while todo:
            y, x = todo.pop()
            if (y, x) not in left:
                continue
            left.remove((y, x))
            seen.add((y, x))
            todo += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        ys, xs = zip(*seen, strict=True)
        boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    assert sorted(boxes) == sorted(tuple(box) for box in regions(mask))


def test_archives_unpacked_into_folders_of_their_own_name_are_found(raw, bring_in):
    for name in ("ISIC-2017_Training_Data", "ISIC-2017_Test_v2_Part2_GroundTruth"):
        (raw / name).rename(raw / "inner")
        (raw / name).mkdir()
        (raw / "inner").rename(raw / name / name)
    assert (bring_in("isic2017", raw) / "train").resolve().name == "ISIC-2017_Training_Data"


def test_the_validation_images_may_join_the_training_images(published, bring_in):
    out = bring_in("isic2017", published, "--with_validation", "--images", "copy")
    assert len(read_label_table(out / "labels_train.csv", target_cols=TARGETS)) == 10
    assert sorted(p.name for p in (out / "train").iterdir()) == [f"ISIC_{i:07}.jpg" for i in range(10)]
    with pytest.raises(InputError, match="give --images copy"):
        bring_in("isic2017", published, "--with_validation", out="other")


def test_indices_above_255_are_decoded(raw, bring_in, rows_of):
    """Superpixel 66051 = 3 + 2 x 256 + 1 x 65536."""
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[20:30, 30:50] = (3, 2, 1)
    Image.fromarray(image).save(raw / f"{FIRST}_superpixels.png")
    features = {name: [0] * 66052 for name in raw_sets.ISIC_FEATURES}
    features["streaks"][66051] = 1
    path = raw / "ISIC-2017_Training_Part2_GroundTruth" / "ISIC_0000001_features.json"
    path.write_text(json.dumps(features))
    rows = [r for r in rows_of(bring_in("isic2017", raw) / "boxes_train.csv") if r["image_id"].endswith("1")]
    assert [(r["class_name"], *(r[s] for s in ("x_min", "y_min", "x_max", "y_max"))) for r in rows] == [
        ("streaks", "30", "20", "50", "30")
    ]


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda features: features.pop("streaks"), "the published file has pigment_network"),
        (lambda features: features["streaks"].append(0), "lists 48, 49 superpixels"),
        (
            lambda features: [row.append(0) for row in features.values()],
            "lists 49 superpixels, but .* has 48",
        ),
        (lambda features: features["streaks"].__setitem__(3, 2), "streaks is not a list of 0 and 1"),
        (lambda features: features["streaks"].__setitem__(3, True), "streaks is not a list of 0 and 1"),
        (lambda features: features.update(streaks="0"), "streaks is not a list of 0 and 1"),
    ],
)
def test_odd_features_are_named(raw, bring_in, change, expected):
    path = raw / "ISIC-2017_Training_Part2_GroundTruth" / "ISIC_0000001_features.json"
    features = json.loads(path.read_text())
    change(features)
    path.write_text(json.dumps(features))
    with pytest.raises(InputError, match=f"ISIC_0000001_features.json: .*{expected}"):
        bring_in("isic2017", raw)


@pytest.mark.parametrize(
    "write, expected",
    [
        (lambda path: Image.new("RGB", (80, 61)).save(path), "80 x 61 RGB, its lesion is 80 x 60"),
        (lambda path: Image.new("L", (80, 60)).save(path), "80 x 60 L"),
        (lambda path: path.write_bytes(b"x"), "is no PNG"),
        (lambda path: path.write_bytes(path.read_bytes()[:90]), "is damaged"),
        (lambda path: path.unlink(), "'ISIC_0000001_superpixels' is not in"),
    ],
)
def test_odd_superpixels_are_named(raw, bring_in, write, expected):
    write(raw / f"{FIRST}_superpixels.png")
    with pytest.raises(InputError, match=expected):
        bring_in("isic2017", raw)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("ISIC_0000001,0.0,1.0", "ISIC_0000001,0.0,2.0", "line 3, column seborrheic_keratosis: '2.0'"),
        ("ISIC_0000001,0.0,1.0", "ISIC_0000001,1.0,1.0", "line 3: is both"),
        ("ISIC_0000001,0.0", "ISIC_0000000,0.0", "line 3: image 'ISIC_0000000' is already in"),
        ("ISIC_0000001,0.0", "../x,0.0", "line 3: .*leaves the image folder"),
        ("melanoma", "cancer", "line 1: no column 'melanoma'"),
    ],
)
def test_an_odd_line_of_part_3_is_named(raw, bring_in, old, new, expected):
    path = raw / "ISIC-2017_Training_Part3_GroundTruth.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=f"Part3_GroundTruth.csv {expected}"):
        bring_in("isic2017", raw)


def test_an_image_of_training_and_test_is_refused(raw, bring_in):
    path = raw / "ISIC-2017_Test_v2_Part3_GroundTruth.csv"
    path.write_text(path.read_text().replace("ISIC_0000010", "ISIC_0000001"))
    with pytest.raises(InputError, match="Test_v2_Part3_.*csv line 2: .*Training_Part3_.*csv line 3"):
        bring_in("isic2017", raw)
