"""Notices on images that are nearly black, blank, or exported in two ways; sound images get none."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csr.data.check.brightness import brightness_notices, sample
from csr.data.check.check import DataFiles, check_data
from csr.data.image_cache.store import open_store

RAMP = np.linspace(0, 1, 96 * 96).reshape(96, 96)


def store(folder: Path, pixels: list[np.ndarray]):
    folder.mkdir()
    paths = []
    for n, values in enumerate(pixels):
        paths.append(folder / f"{n}.png")
        Image.fromarray(values).save(paths[-1])
    return open_store(paths, size=32, cache_dir=None, workers=1)


def rolled(scale: int, dtype: str, count: int = 8) -> list[np.ndarray]:
    return [np.roll((RAMP * scale).astype(dtype), 97 * n) for n in range(count)]


def test_sound_images_of_8_and_of_16_bits_get_no_notice(tmp_path):
    splits = [
        sample("training", store(tmp_path / "a", rolled(255, "u1"))),
        sample("test", store(tmp_path / "b", rolled(65535, "u2"))),
    ]
    assert brightness_notices(splits) == []


def test_12_bits_in_16_are_nearly_black_and_darker_than_the_other_split(tmp_path):
    splits = [
        sample("training", store(tmp_path / "a", rolled(4095, "u2"))),
        sample("test", store(tmp_path / "b", rolled(255, "u1"))),
    ]
    dark, darker = brightness_notices(splits)
    # 4095 / 257 = 15.9
    assert "training images are nearly black" in dark and "of 8 is 16 of 255" in dark
    assert darker.startswith("the training images are darker than the test images")


def test_a_hospital_whose_images_are_nearly_black_among_others_is_counted(tmp_path):
    mixed = [*rolled(255, "u1", 5), *rolled(4095, "u2", 3)]
    (line,) = brightness_notices([sample("training", store(tmp_path / "a", mixed))])
    assert line.startswith("3 of 8 training images that were looked at are nearly black")
    one = [*rolled(255, "u1", 7), *rolled(4095, "u2", 1)]
    assert brightness_notices([sample("training", store(tmp_path / "b", one))]) == [], "one may be so"


def test_images_of_one_grey_are_counted(tmp_path):
    pixels = [*rolled(255, "u1", 6), *[np.full((96, 96), 255, "u1")] * 2]
    (line,) = brightness_notices([sample("training", store(tmp_path / "a", pixels))])
    assert line.startswith("2 of 8 training images")


@pytest.mark.parametrize(("bits", "warned"), [(12, True), (14, True), (16, False)])
def test_data_check_counts_16_bit_images_of_fewer_bits(tmp_path, bits, warned):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(24):
        Image.fromarray(rng.integers(0, 2**bits, (64, 64)).astype("u2")).save(folder / f"a{n}.png")
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as file:
        rows = [[f"a{n}", n & 1, n >> 1 & 1, int(n % 3 == 0)] for n in range(24)]
        csv.writer(file).writerows([["image_id", "Cavity", "Nodule", "COPD"], *rows])
    found = check_data(DataFiles(str(tmp_path / "labels.csv"), str(folder)), rare=1, workers=1)
    lines = [line for line in found["warnings"] if "16 bits" in line]
    expected = f"24 train images of 16 bits use values up to {2**bits - 1} only ({bits} bits)"
    assert bool(lines) == warned and all(line.startswith(expected) for line in lines)
    assert not warned or f"scale them by {2 ** (16 - bits)}" in lines[0]
