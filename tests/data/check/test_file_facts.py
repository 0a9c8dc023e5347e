"""Greys, borders, kinds and links of small sets of files by hand."""

import os

import numpy as np
import pytest
from PIL import Image

from csr.data.check.facts import Split
from csr.data.check.file_facts import file_warnings, grey_facts, link_facts
from csr.data.check.image_scan import scan
from csr.data.labels.table import read_label_table


@pytest.fixture
def split_of(tmp_path):
    def make(name, greys, *, dtype=np.uint8):
        paths = []
        for number, grey in enumerate(greys):
            pixels = np.full((40, 40), 100 if grey is None else grey, dtype=dtype)
            pixels[10:30, 10:30] += 20  # a border, and something to see
            paths.append(tmp_path / f"{name}{number}.png")
            Image.fromarray(pixels * (257 if dtype == np.uint16 else 1)).save(paths[-1])
        rows = "".join(f"{path.stem},{n % 2},{n % 2}\n" for n, path in enumerate(paths))
        (tmp_path / f"{name}.csv").write_text("image_id,Mass,COPD\n" + rows)
        split = Split(name, read_label_table(tmp_path / f"{name}.csv"), paths=dict(enumerate(paths)))
        split.scanned = dict(enumerate(scan(paths, workers=1, title="x")))
        return split

    return make


def test_greys_and_borders_are_those_of_the_pixels(split_of):
    facts = grey_facts(split_of("train", [0, 10, 100, 110, 235]))
    # a quarter of each image is 20 brighter: means are 5, 15, 105, 115 and 240
    assert facts["mean_grey"]["median"] == pytest.approx(105, abs=1)
    assert facts["mean_grey"]["low"] == pytest.approx(9, abs=1)  # 0.4 of the way from 5 to 15
    assert facts["mean_grey"]["high"] == pytest.approx(190, abs=1)  # 0.6 of the way from 115 to 240
    assert (facts["white_borders"], facts["black_borders"]) == (0, 2)
    assert grey_facts(Split("test", split_of("test", [1, 2]).table)) is None


def test_splits_of_another_brightness_or_kind_are_told(split_of):
    train, test = split_of("train", [60] * 6), split_of("test", [150] * 6, dtype=np.uint16)
    lines = file_warnings([train, test], {})
    assert [line for line in lines if "train images are darker than the test images" in line]
    (kind,) = [line for line in lines if "another export" in line]
    assert "100% of the train images are PNG 8-bit grey, and 0% of the test images" in kind
    same = split_of("other", [61] * 6)
    assert file_warnings([train, same], {}) == []


def test_links_and_the_files_behind_them_are_counted(tmp_path, split_of):
    paths = list(split_of("train", [10, 20, 30]).paths.values())
    (tmp_path / "soft.png").symlink_to(paths[0])
    os.link(paths[1], tmp_path / "hard.png")
    links = link_facts([*paths, tmp_path / "soft.png", tmp_path / "hard.png"])
    assert links == {"images": 5, "symbolic": 1, "files": 3}
    (line,) = file_warnings([], {"train": links})
    assert "5 train images are links to 3 files" in line
