"""Warnings on windows that do not fit and on white borders; images that are well get none."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hostile_pictures import dicom
from PIL import Image

from csr.data.check.check import DataFiles, check_data
from csr.data.check.display import window_notices
from csr.data.check.file_facts import border_greys

NOISE = np.random.default_rng(0).integers(12_000, 16_000, (24, 64, 64)).astype(np.uint16)
DEEP = {"BitsStored": 16, "HighBit": 15}
BESIDE = {"WindowCenter": "3174", "WindowWidth": "2426"}


def warnings_of(folder: Path, contents: list[bytes]) -> list[str]:
    """Return what the data check warns of, for files of a table of labels."""
    images = folder / "images"
    images.mkdir()
    for number, content in enumerate(contents):
        (images / f"a{number}.dcm").write_bytes(content)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        rows = [[f"a{n}", n & 1, n >> 1 & 1, int(n % 3 == 0)] for n in range(len(contents))]
        csv.writer(file).writerows([["image_id", "Cavity", "Nodule", "COPD"], *rows])
    return check_data(DataFiles(str(folder / "labels.csv"), str(images)), rare=1, workers=1)["warnings"]


def files(*kinds: dict, number: int = 24) -> list[bytes]:
    """Return files of noise, the first with the elements of the first kind, and so on."""
    more = [*kinds, *[{}] * (number - len(kinds))]
    return [dicom(NOISE[n], **DEEP, **elements) for n, elements in enumerate(more)]


def test_the_data_check_counts_windows_by_kind_and_by_manufacturer(tmp_path):
    clipping = {"WindowCenter": 12_000, "WindowWidth": 101, "Manufacturer": "Byte"}
    none = {"WindowCenter": 12_000, "WindowWidth": "0"}
    kinds = [{**BESIDE, "Manufacturer": "Acme"}] * 3 + [BESIDE, clipping, none]
    lines = [line for line in warnings_of(tmp_path, files(*kinds)) if "window" in line]
    assert len(lines) == 3
    (four,) = (line for line in lines if line.startswith("4 train images have a window beside all of their"))
    assert "(by manufacturer: 'Acme' 3)" in four
    assert f"(100.0% white by window 3174/2426, pixels {NOISE[0].min()} to {NOISE[0].max()})" in four
    (zero,) = (line for line in lines if "WindowWidth 0" in line)
    assert zero.startswith("1 train images") and "'a5' (WindowWidth 0)" in zero
    (most,) = (line for line in lines if "more than 95%" in line)
    low, high = 12_000 - 0.5 - 50, 12_000 - 0.5 + 50  # PS3.3 C.11.2.1.2.1
    shown = np.rint(np.clip((NOISE[4] - low) / (high - low), 0, 1) * 255)
    white, black = (shown == 255).mean(), (shown == 0).mean()
    assert f"{white:.1%} white{f', {black:.1%} black' if black else ''} by window 12000/101" in most
    assert "'Byte' 1" in most


def test_windows_that_fit_get_no_warning(tmp_path):
    fits = {"WindowCenter": 14_000, "WindowWidth": 4000}
    assert [line for line in warnings_of(tmp_path, files(*[fits] * 20)) if "window" in line] == []


@pytest.mark.parametrize("bad", [0, 3])
def test_training_looks_at_some_files_and_says_it_in_one_line(tmp_path, bad):
    paths = []
    for number, content in enumerate(files(*[BESIDE] * bad)):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(content)
    Image.fromarray(NOISE[0]).save(tmp_path / "a.png")
    lines = window_notices({"training": [*paths, tmp_path / "a.png"], "test": paths[5:]}, workers=2)
    if not bad:
        assert lines == []
        return
    (line,) = lines
    assert line.startswith(
        "of 24 DICOM files of the training images that were looked at, 3 have a window beside"
    )
    assert line.endswith("`csr data check` lists them")


def framed(border: int) -> np.ndarray:
    pixels = np.full((64, 64), border, np.uint16)
    pixels[8:-8, 8:-8] = NOISE[0, 8:-8, 8:-8] // 64
    return pixels


@pytest.mark.parametrize(
    ("white", "black", "warned"), [(12, 12, True), (1, 23, True), (24, 0, True), (0, 24, False)]
)
def test_borders_that_are_white_in_some_images_are_counted(tmp_path, white, black, warned):
    window = {"BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
    contents = [dicom(framed(255), **window)] * white + [dicom(framed(0), **window)] * black
    lines = [line for line in warnings_of(tmp_path, contents) if "border" in line]
    assert len(lines) == warned
    expected = f"the border is white in {white} and black in {black} of 24 train images"
    assert all(line.startswith(expected) and line.endswith("'a0'") == (white == 1) for line in lines)


def test_images_of_grey_borders_get_no_warning(tmp_path):
    assert [line for line in warnings_of(tmp_path, files()) if "border" in line] == []


def test_the_border_is_the_outermost_ring():
    thumbnail = np.zeros((32, 32), np.uint8)
    thumbnail[0], thumbnail[-1], thumbnail[:, 0], thumbnail[:, -1] = 200, 200, 200, 200
    assert border_greys(thumbnail[None]) == [200] and border_greys(thumbnail[None, 1:-1, 1:-1]) == [0]
