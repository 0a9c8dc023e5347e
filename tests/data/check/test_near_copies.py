"""Near duplicates are found and other images are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from csr.data.check import near_copies
from csr.data.check.groups import Groups
from csr.data.check.near_copies import (
    NEAR_LIMITS,
    difference_bits,
    few_at_a_time,
    near_groups,
    near_pairs,
)
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
    thumbnails = np.stack([thumbnail(path) for path in paths])
    assert pairs_of(thumbnails) == [(3, len(radiographs))]
    assert near_groups(thumbnails) == [[3, len(radiographs)]]


def test_real_images_of_different_patients_are_no_duplicates(real_images):
    paths = sorted((real_images / "test").iterdir())
    assert near_groups(np.stack([thumbnail(path) for path in paths])) == []


def pairs_of(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    return sorted({tuple(pair) for pair_P2, _ in near_pairs(thumbnails) for pair in pair_P2.tolist()})


def all_compared(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of a comparison of all with all, by NumPy's correlation of float64."""
    signs = difference_bits(thumbnails).astype(int)
    flipped_NN = signs @ (1 - signs).T + (1 - signs) @ signs.T
    flat_NF = thumbnails.reshape(len(thumbnails), -1).astype(float)
    contrast_N = flat_NF.std(axis=1) >= near_copies.MIN_CONTRAST
    with np.errstate(invalid="ignore", divide="ignore"):
        alike_NN = np.corrcoef(flat_NF)
    near_NN = np.logical_or.reduce(
        [(flipped_NN <= bits) & (alike_NN >= least) for bits, least in NEAR_LIMITS]
    )
    near_NN &= contrast_N[:, None] & contrast_N
    return [tuple(pair) for pair in np.argwhere(np.triu(near_NN, 1)).tolist()]


def smooth(rng: np.random.Generator, number: int) -> np.ndarray:
    """Return smooth images unlike each other."""
    coarse = rng.integers(0, 256, (number, 4, 4), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in coarse]
    )


def copied(rng: np.random.Generator, number: int, *, of: int, noise: float) -> np.ndarray:
    base = smooth(rng, of)[rng.integers(0, of, number)]
    return np.clip(base + rng.normal(0, noise, base.shape), 0, 255).astype(np.uint8)


SETS = {
    "noise": lambda rng: rng.integers(0, 256, (100, 32, 32), dtype=np.uint8),
    "smooth": lambda rng: smooth(rng, 150),
    "clusters of which some pairs are near": lambda rng: copied(rng, 150, of=30, noise=4.0),
    "two clusters": lambda rng: copied(rng, 60, of=2, noise=1.0),
    "all equal": lambda rng: np.repeat(smooth(rng, 1), 50, axis=0),
    "nearly black": lambda rng: copied(rng, 150, of=40, noise=1.0) // 40,
    "no contrast but in three": lambda rng: np.concatenate(
        [np.full((90, 32, 32), 7, dtype=np.uint8), copied(rng, 3, of=1, noise=1.0)]
    ),
}


@pytest.mark.parametrize("few", [0, 64, 10**6], ids=["trees alone", "as it is", "bands alone"])
@pytest.mark.parametrize("name", SETS)
def test_the_pairs_and_groups_are_those_of_a_comparison_of_all_with_all(monkeypatch, name, few):
    monkeypatch.setattr(near_copies, "FEW_PAIRS", few)
    thumbnails = SETS[name](np.random.default_rng(0))
    wanted = all_compared(thumbnails)
    assert wanted or name in ("noise", "smooth")
    assert pairs_of(thumbnails) == wanted
    groups = Groups(len(thumbnails))
    groups.join(np.reshape(np.asarray(wanted, dtype=np.int64), (-1, 2)))
    assert near_groups(thumbnails) == groups.several()


def test_correlations_of_pairs_are_those_of_numpy():
    thumbnails = copied(np.random.default_rng(1), 40, of=4, noise=3.0)
    for pair_P2, alike_P in near_pairs(thumbnails):
        wanted = [np.corrcoef(thumbnails[[a, b]].reshape(2, -1))[0, 1] for a, b in pair_P2]
        np.testing.assert_allclose(alike_P, wanted, atol=1e-5)


def test_copies_are_joined_without_judging_all_their_pairs(monkeypatch):
    judged = []
    real = near_copies.centred_units
    monkeypatch.setattr(near_copies, "centred_units", lambda part: (judged.append(len(part)), real(part))[1])
    number = 2000
    groups = near_groups(copied(np.random.default_rng(2), number, of=2, noise=1.0))
    assert sorted(map(len, groups))[0] > 900 and sum(map(len, groups)) == number
    assert sum(judged) < 20 * number, "there are a million pairs"


def test_few_at_a_time_joins_a_clique_by_a_chain_and_judges_all_that_stays_apart():
    pair_P2 = np.argwhere(np.triu(np.ones((40, 40)), 1))
    groups, judged = Groups(40), 0
    for part_P2 in few_at_a_time(pair_P2, groups):
        judged += len(part_P2)
        groups.join(part_P2)
    assert groups.several() == [[*range(40)]] and judged == 39
    kept = np.concatenate([*few_at_a_time(pair_P2, Groups(40))])
    assert sorted(map(tuple, kept)) == sorted(map(tuple, pair_P2)), "none is near"


def test_images_without_contrast_are_no_copies_of_each_other():
    assert near_groups(np.full((5, 32, 32), 40, dtype=np.uint8)) == []
    assert near_groups(np.zeros((0, 32, 32), dtype=np.uint8)) == []


def test_images_along_one_line_are_found_whatever_the_axes_are():
    """Brightness alone differs along one axis, noise along others; copies share both."""
    rng = np.random.default_rng(2)
    base = np.linspace(0, 200, 32)[None, None] + rng.normal(0, 8, (300, 32, 32))
    base[150:] = base[:150] * 0.9 + rng.normal(0, 0.2, (150, 32, 32))
    found = pairs_of(np.clip(base, 0, 255).astype(np.uint8))
    assert {*found} >= {(n, n + 150) for n in range(150)}
