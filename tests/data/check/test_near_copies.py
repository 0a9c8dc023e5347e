"""Near duplicates are found and other images are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from csr.data.check.near_copies import NEAR_LIMITS, close_pairs, difference_bits, groups_of, near_duplicates
from csr.data.images.resize import resize_file


def thumbnail(path: Path) -> np.ndarray:
    return resize_file(path, 32).pixels_CSS.mean(axis=0).round().astype(np.uint8)


@pytest.fixture(scope="module")
def radiographs(phantom_folder: Path) -> list[Path]:
    return sorted((phantom_folder / "train").iterdir())


def grey(path: Path) -> Image.Image:
    image = Image.open(path)
    is_deep = image.mode.startswith("I")
    return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)) if is_deep else image.convert("L")


CHANGES = {
    "again as JPEG": lambda image, path: image.save(path.with_suffix(".jpg"), quality=60),
    "half the size": lambda image, path: image.resize((image.width // 2, image.height // 2)).save(path),
    "three times the size": lambda image, path: image.resize((3 * image.width, 3 * image.height)).save(path),
    "16 bits": lambda image, path: Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path),
    "darker": lambda image, path: ImageEnhance.Brightness(image).enhance(0.8).save(path),
    "gamma": lambda image, path: image.point(lambda v: int(255 * (v / 255) ** 0.75)).save(path),
    "a mark in the corner": lambda image, path: (image.paste(255, (2, 2, 8, 5)), image.save(path)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(radiographs, tmp_path, change):
    CHANGES[change](grey(radiographs[3]), tmp_path / "copy.png")
    paths = [*radiographs, *tmp_path.iterdir()]
    found = near_duplicates(np.stack([thumbnail(path) for path in paths]))
    assert [(a, b) for a, b, _ in found] == [(3, len(radiographs))]


def test_real_images_of_different_patients_are_no_duplicates(real_images):
    paths = sorted((real_images / "test").iterdir())
    assert near_duplicates(np.stack([thumbnail(path) for path in paths])) == []


def test_blocks_find_what_a_loop_over_pairs_finds(monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (12, 32, 32))
    base = np.concatenate([base, base + rng.normal(0, 9, base.shape), base + rng.normal(0, 70, base.shape)])
    thumbnails = np.clip(base, 0, 255).astype(np.uint8)
    signs = difference_bits(thumbnails)
    wanted = []
    for a in range(len(base)):
        for b in range(a + 1, len(base)):
            alike = np.corrcoef(thumbnails[a].ravel(), thumbnails[b].ravel())[0, 1]
            if any((signs[a] != signs[b]).sum() <= bits and alike >= least for bits, least in NEAR_LIMITS):
                wanted.append((a, b))
    assert wanted, "the case is not empty"
    for entries in (2**24, 100):
        monkeypatch.setattr("csr.data.check.near_copies._BLOCK_ENTRIES", entries)
        assert [(a, b) for a, b, _ in near_duplicates(thumbnails)] == wanted


def test_images_without_contrast_are_no_duplicates_of_each_other():
    assert near_duplicates(np.full((5, 32, 32), 40, dtype=np.uint8)) == []
    assert near_duplicates(np.zeros((0, 32, 32), dtype=np.uint8)) == []


def test_groups_join_by_way_of_others():
    assert groups_of([(5, 2, 1.0), (2, 9, 1.0), (1, 7, 1.0)]) == [[1, 7], [2, 5, 9]]
    assert groups_of([]) == []


@pytest.mark.parametrize("axes", [1, 3, 8])
def test_close_pairs_are_those_of_a_loop(monkeypatch, axes):
    monkeypatch.setattr("csr.data.check.near_copies._BLOCK_ENTRIES", 900)
    point_ND = np.random.default_rng(1).random((150, axes)).astype(np.float32)
    distance_NN = np.linalg.norm(point_ND[:, None].astype(float) - point_ND[None], axis=2)
    radius = float(np.quantile(distance_NN, 0.1))
    found = {tuple(pair) for part in close_pairs(point_ND, radius) for pair in part.tolist()}
    wanted = {(a, b) for a in range(150) for b in range(a + 1, 150) if distance_NN[a, b] <= radius}
    assert wanted <= found
    assert all(distance_NN[a, b] <= np.sqrt(radius**2 + 0.0011) for a, b in found - wanted)


def test_images_along_one_line_are_found_whatever_the_axes_are():
    """Brightness alone differs along one axis, noise along others; copies share both."""
    rng = np.random.default_rng(2)
    base = np.linspace(0, 200, 32)[None, None] + rng.normal(0, 8, (300, 32, 32))
    base[150:] = base[:150] * 0.9 + rng.normal(0, 0.2, (150, 32, 32))
    found = near_duplicates(np.clip(base, 0, 255).astype(np.uint8))
    assert {(a, b) for a, b, _ in found} >= {(n, n + 150) for n in range(150)}
