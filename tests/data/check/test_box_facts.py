"""Boxes that may not be what they should be, one of each by hand."""

import numpy as np
import pytest
from PIL import Image

from csr.data.check.box_facts import box_facts, box_warnings
from csr.data.check.facts import Split
from csr.data.check.image_scan import scan
from csr.data.labels.table import read_label_table


@pytest.fixture
def checked(tmp_path):
    """Two images, 100 wide and 50 high; `a` has Mass, `b` has Edema."""
    (tmp_path / "t.csv").write_text("image_id,Mass,Edema,COPD\na,1,0,1\nb,0,1,0\n")
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 100), dtype=np.uint8)).save(path)
    split = Split("train", read_label_table(tmp_path / "t.csv"), paths=dict(enumerate(paths)))
    split.scanned = dict(enumerate(scan(paths, workers=1, title="x")))

    def check(*rows):
        text = "image_id,class_name,x_min,y_min,x_max,y_max\n" + "".join(f"{row}\n" for row in rows)
        (tmp_path / "b.csv").write_text(text)
        return box_facts(str(tmp_path / "b.csv"), split)

    return check


def test_plausible_boxes_give_no_line(checked):
    found = checked("a,Mass,30,10,60,40", "b,Edema,40,5,70,45")
    assert box_warnings(found) == []
    assert found["reach"] == pytest.approx([0.7, 0.9])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["a,Mass,0,0,100,46"], "1 of 2 boxes cover 90% of their image"),  # 92 %
        (["a,Mass,30,10,32,40"], "1 of 2 boxes have a side of less than 3 pixels"),
        (["a,Mass,30,10,60,40"] * 2, "1 of 3 boxes are there twice on their image"),
        (
            ["b,Mass,30,10,60,40"],
            "1 of 2 boxes are on images without that finding and are not used: ",
        ),
        (["a,Mass,0,10,30,40"], "with --resize crop 1 of 2 boxes are not used"),  # 5 of 30 columns are seen
    ],
)
def test_each_oddity_is_told(checked, rows, expected):
    found = box_warnings(checked("b,Edema,40,5,70,45", *rows))
    assert [line for line in found if expected in line], found


def test_concepts_without_boxes_are_named(checked):
    assert any("no box for 'Edema'" in line for line in box_warnings(checked("a,Mass,30,10,60,40")))


def test_boxes_of_smaller_images_never_reach_far(checked):
    near = [f"a,Mass,{n},{n / 2},{n + 10},{n / 2 + 5}" for n in range(25, 50)]
    told = [line for line in box_warnings(checked(*near)) if "reaches" in line]
    assert len(told) == 1 and "no box reaches beyond 59% of the width or height" in told[0]
    for rows in ([*near, "a,Mass,30,10,62,40"], near[:19]):  # one reaches far; few boxes prove nothing
        assert not [line for line in box_warnings(checked(*rows)) if "reaches" in line]
