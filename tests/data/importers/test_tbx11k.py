"""`csr data tbx11k`: folders and boxes become labels; COCO and VOC give the same boxes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import raw_sets
from PIL import Image

from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError

TARGETS = ("healthy", "sick but not TB", "active TB", "latent TB")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_sets.tbx11k(tmp_path_factory.mktemp("tbx") / "raw")


@pytest.fixture
def raw(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "raw"))


def change(raw: Path, part: str, number: int, **values: object) -> None:
    path = raw / "annotations" / "json" / "TBX11K_train.json"
    content = json.loads(path.read_text())
    content[part][number].update(values)
    path.write_text(json.dumps(content))


def test_labels_follow_from_folder_and_boxes(published, bring_in, capsys):
    out = bring_in("tbx11k", published)
    assert "Notice: TBX11K contains images of the Montgomery and Shenzhen sets" in capsys.readouterr().out
    table = read_label_table(out / "labels_train.csv", target_cols=TARGETS)
    assert table.concept_names == ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis"), (
        "the third has no box"
    )
    assert table.image_ids == tuple(raw_sets.tbx_lists()["train"])
    target_of = dict(zip(table.image_ids, table.target_NT.tolist(), strict=True))
    assert target_of["health/h0001"] == [1, 0, 0, 0] and target_of["sick/s0001"] == [0, 1, 0, 0]
    assert target_of["tb/tb0001"] == [0, 0, 1, 0] and target_of["tb/tb0002"] == [0, 0, 1, 1]
    np.testing.assert_array_equal(target_of["tb/tb0003"], [0, 0, np.nan, np.nan])
    concepts = dict(zip(table.image_ids, table.concept_NK.tolist(), strict=True))
    assert concepts["tb/tb0004"] == [0, 1] and concepts["sick/s0002"] == [0, 0]
    assert np.isnan(concepts["tb/tb0003"]).all()


@pytest.mark.parametrize("form", ["json", "xml"])
def test_both_forms_give_the_boxes_in_pixels_of_the_published_images(published, bring_in, rows_of, form):
    out = bring_in("tbx11k", published, "--boxes", form)
    for split, wanted in (("train", [*raw_sets.TBX_BOXES][:4]), ("test", [*raw_sets.TBX_BOXES][4:])):
        rows = rows_of(out / f"boxes_{split}.csv")
        sides = ("x_min", "y_min", "x_max", "y_max")
        found = [(r["image_id"], r["class_name"], *(float(r[s]) for s in sides)) for r in rows]
        assert found == [
            (stem, name, *raw_sets.halved(box)) for stem in wanted for name, box in raw_sets.TBX_BOXES[stem]
        ]


def test_merged_targets_are_exactly_one_of_three(published, bring_in):
    out = bring_in("tbx11k", published, "--merge_tb")
    table = read_label_table(out / "labels_train.csv", target_cols=("healthy", "sick but not TB", "TB"))
    assert table.target_NT.sum(axis=1).tolist() == [1] * 12


def test_images_of_one_name_in_two_folders_keep_their_boxes(raw, bring_in, rows_of):
    """Both are told apart where the file of the boxes names folders, as the published one does."""
    shutil.copy(raw / "imgs" / "sick" / "s0001.png", raw / "imgs" / "sick" / "tb0001.png")
    path = raw / "lists" / "TBX11K_train.txt"
    path.write_text(f"{path.read_text()}sick/tb0001.png\n")
    rows = rows_of(bring_in("tbx11k", raw) / "boxes_train.csv")
    assert [row["image_id"] for row in rows if row["image_id"].endswith("tb0001")] == ["tb/tb0001"]
    change(raw, "images", 8, file_name="tb0001.png")
    with pytest.raises(InputError, match=r"images\[8\]: 'tb0001.png' is not in the list"):
        bring_in("tbx11k", raw, out="other")


def test_a_list_may_begin_with_a_byte_order_mark(raw, bring_in):
    path = raw / "lists" / "TBX11K_train.txt"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert len(read_label_table(bring_in("tbx11k", raw) / "labels_train.csv", target_cols=TARGETS)) == 12


def test_lists_may_name_images_with_or_without_imgs(raw, bring_in):
    path = raw / "lists" / "TBX11K_train.txt"
    path.write_text("".join(f"imgs/{line}\n" for line in path.read_text().splitlines()))
    out = bring_in("tbx11k", raw)
    assert len(read_label_table(out / "labels_train.csv", target_cols=TARGETS)) == 12


def test_an_unspecified_tuberculosis_leaves_active_and_latent_open(raw, bring_in, capsys):
    change(raw, "annotations", 0, category_id=3)
    table = read_label_table(bring_in("tbx11k", raw) / "labels_train.csv", target_cols=TARGETS)
    assert table.concept_names[-1] == "PulmonaryTuberculosis"
    target_of = dict(zip(table.image_ids, table.target_NT.tolist(), strict=True))
    np.testing.assert_array_equal(target_of["tb/tb0001"], [0, 0, np.nan, np.nan])
    assert target_of["tb/tb0004"] == [0, 0, 0, 1]
    concepts_of = dict(zip(table.image_ids, table.concept_NK.tolist(), strict=True))
    np.testing.assert_array_equal(concepts_of["tb/tb0001"], [np.nan, np.nan, 1])
    assert concepts_of["tb/tb0004"] == [0, 1, 0] and concepts_of["sick/s0001"] == [0, 0, 0]


def test_difficult_boxes_are_omitted_and_reported(raw, bring_in, capsys):
    boxes = raw_sets.TBX_BOXES["tb/tb0004"]
    raw_sets.write_voc(raw / "annotations" / "xml" / "tb0004.xml", boxes, difficult=1)
    bring_in("tbx11k", raw, "--boxes", "xml")
    assert "1 train boxes are marked difficult" in capsys.readouterr().out


@pytest.mark.parametrize(
    "part, number, values, expected",
    [
        ("annotations", 1, {"bbox": [1, 2, 3]}, r"annotations\[1\]: bbox"),
        ("annotations", 1, {"bbox": [1, 2, "a", 3]}, r"annotations\[1\]: bbox"),
        ("annotations", 1, {"bbox": [1, 2, float("nan"), 3]}, r"annotations\[1\]: .* not four numbers"),
        (
            "annotations",
            1,
            {"bbox": [500, 2, 30, 3]},
            r"annotations\[1\]: box .* leaves its image of 512 x 512",
        ),
        ("annotations", 1, {"bbox": [500, 2, -30, 3]}, r"annotations\[1\]: .* no area"),
        ("annotations", 0, {"category_id": 9}, r"annotations\[0\]: .* category 9"),
        ("annotations", 0, {"image_id": "x"}, r"annotations\[0\]: image_id is 'x'"),
        ("images", 8, {"id": 1}, r"images\[8\]: id 1 is that of images\[0\] too"),
        ("categories", 1, {"id": 1}, r"categories\[1\]: id 1 is that of categories\[0\] too"),
        ("images", 8, {"file_name": "sick/tb0001.png"}, r"images\[8\]: 'sick/tb0001.png' is not in the list"),
        ("images", 8, {"width": 1024}, r"images\[8\]: boxes are in pixels of '1024'"),
        ("images", 8, {"file_name": "tb/tb9999.png"}, r"images\[8\]: 'tb/tb9999.png' is not in the list"),
    ],
)
def test_an_odd_entry_of_the_json_is_named(raw, bring_in, part, number, values, expected):
    change(raw, part, number, **values)
    with pytest.raises(InputError, match=f"TBX11K_train.json {expected}"):
        bring_in("tbx11k", raw)


@pytest.mark.parametrize("text", ["[]", "{", '{"images": {}}', "[" * 100_000, "\udcff"])
def test_what_is_no_coco_file_is_one_line(raw, bring_in, text):
    (raw / "annotations" / "json" / "TBX11K_val.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match="TBX11K_val.json") as caught:
        bring_in("tbx11k", raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<annotation>", "no XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "not as published"),
        ("<annotation><size><width>0</width><height>9</height></size></annotation>", "size/width is '0'"),
        (
            "<annotation><size><width>9</width><height>9</height></size>"
            "<object><name>Cat</name></object></annotation>",
            "object 1: 'Cat'",
        ),
    ],
)
def test_an_odd_xml_file_is_named(raw, bring_in, text, expected):
    (raw / "annotations" / "xml" / "tb0001.xml").write_text(text)
    with pytest.raises(InputError, match=f"tb0001.xml.*{expected}"):
        bring_in("tbx11k", raw, "--boxes", "xml")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("../secret.png", "'../secret.png' is not in"),
        ("extra/da/a.png", "is not in health"),
        ("tb/../../x", "is not in"),
        ("tb/tb0001.png", "is listed twice"),
        ("tb/none.png", "image 'tb/none' is not in"),
    ],
)
def test_an_odd_line_of_a_list_is_named(raw, bring_in, line, expected):
    path = raw / "lists" / "TBX11K_train.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(InputError, match=f"TBX11K_train.txt line 13: .*{expected}"):
        bring_in("tbx11k", raw)


def test_an_image_of_another_size_than_its_boxes_is_refused(raw, bring_in):
    Image.new("L", (1024, 1024)).save(raw / "imgs" / "tb" / "tb0001.png")
    with pytest.raises(InputError, match="has 1024 x 1024; give the published images"):
        bring_in("tbx11k", raw)


def test_the_same_image_in_both_lists_is_refused(raw, bring_in):
    path = raw / "lists" / "TBX11K_val.txt"
    path.write_text(path.read_text() + "tb/tb0001.png\n")
    with pytest.raises(InputError, match="'tb/tb0001' is in TBX11K_train.txt and in TBX11K_val.txt"):
        bring_in("tbx11k", raw)
