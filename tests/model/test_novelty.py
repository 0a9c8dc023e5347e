"""Distances against numpy's covariance, pixels by hand, the limit by its false alarms on new draws."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from tiny_model import SIZE, K, M, tiny_model

from csr.model.image_statistics import STATISTICS, image_statistics, pixel_statistics
from csr.model.novelty import MIN_IMAGES, compare, novelty_from_dict
from csr.model.novelty_fit import fit_novelty, fit_space
from csr.runtime.errors import InputError

LENGTHS = {"features": 6, "similarity": 4, "layout": 64, "grey_levels": 16, "texture": 2, "colour": 2}


def rows(num: int, seed: int, *, shift: float = 0.0) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(seed)
    drawn = {name: draw.normal(size=(num, length)) + shift for name, length in LENGTHS.items()}
    return {name: torch.from_numpy(value).float() for name, value in drawn.items()}


def test_a_distance_with_all_axes_is_mahalanobis():
    draw = np.random.default_rng(0)
    train = draw.normal(size=(200, 5)) @ draw.normal(size=(5, 5))
    new = draw.normal(size=(7, 5)) * 3
    space = fit_space(torch.from_numpy(train), noise=0.1)
    inverse = np.linalg.inv(np.cov(train.T) + 0.01 * np.eye(5))
    centred = new - train.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred) / 5)
    np.testing.assert_allclose(space.log_distance(torch.from_numpy(new)), np.log1p(expected), rtol=1e-9)


def test_directions_without_an_axis_share_what_variance_is_left():
    train = torch.from_numpy(np.random.default_rng(1).normal(size=(500, 40)))
    space = fit_space(train, noise=0.0)
    values = np.linalg.eigvalsh(np.cov(train.numpy().T))[::-1]
    assert len(space.axis_AD) == 16 and space.rest == pytest.approx(values[16:].mean(), rel=1e-4)
    np.testing.assert_allclose(space.variance_A, values[:16], rtol=1e-9)


@pytest.mark.parametrize(("num", "length"), [(30, 31), (40, 70), (20, 300), (12, 40), (50, 50)])
def test_fewer_images_than_numbers_give_the_axes_of_the_covariance(num, length):
    draw = np.random.default_rng(num)
    train = draw.normal(size=(num, length)) * np.geomspace(30, 1, length) + draw.normal(size=length)
    space = fit_space(torch.from_numpy(train), noise=0.1)
    values, columns = np.linalg.eigh(np.cov(train.T))
    values, axes = values[::-1], columns.T[::-1]
    number = min(16, num - 1)
    np.testing.assert_allclose(space.variance_A, values[:number] + 0.01, rtol=1e-9)
    same = axes[:number] @ space.axis_AD.numpy().T
    np.testing.assert_allclose(np.abs(same), np.eye(number), atol=1e-7)  # up to their sign
    left = values[number:].sum() / (length - number)
    assert space.rest == pytest.approx(left + 0.01 + 1e-6 * values[0], rel=1e-9)
    # what every image is measured by: along the axes by their variances, beside them by the rest
    new = draw.normal(size=(5, length)) * 10 - train.mean(axis=0)
    along = new @ axes[:number].T
    square = (along**2 / (values[:number] + 0.01)).sum(1) + ((new**2).sum(1) - (along**2).sum(1)) / space.rest
    expected = np.log1p(np.sqrt(square / length))
    found = space.log_distance(torch.from_numpy(new + train.mean(axis=0)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_no_matrix_is_larger_than_images_or_numbers(monkeypatch):
    """K x M has no bound: 17000 prototypes would take 2.3 GB and an hour."""
    sides, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sides.append(len(matrix)) or eigh(matrix))
    for num, length in ((24, 400), (400, 24), (24, 24)):
        fit_space(torch.randn(num, length, generator=torch.Generator().manual_seed(0)), noise=0.1)
    assert sides == [24, 24, 24]


def test_axes_that_the_images_do_not_have_are_unit_vectors_across_the_others():
    """Six times the same four images: three axes have a variance, and those made up take the noise alone."""
    four = np.random.default_rng(3).normal(size=(4, 90))
    train = np.concatenate([four] * 6)
    space = fit_space(torch.from_numpy(train), noise=0.1)
    np.testing.assert_allclose(space.axis_AD @ space.axis_AD.T, np.eye(16), atol=1e-9)
    values = np.linalg.eigvalsh(np.cov(train.T))[::-1]
    np.testing.assert_allclose(space.variance_A, values[:16] + 0.01, rtol=1e-9)
    still = fit_space(torch.ones(24, 90), noise=0.1)  # as of images that are all black
    assert still.variance_A.tolist() == pytest.approx([0.01] * 16) and still.rest == pytest.approx(0.01)
    np.testing.assert_allclose(still.axis_AD @ still.axis_AD.T, np.eye(16), atol=1e-9)


def test_numbers_that_are_missing_do_not_count():
    space = fit_space(torch.from_numpy(np.random.default_rng(1).normal(size=(50, 3))), noise=0.1)
    some, mean = torch.tensor([[1.0, math.nan, 2.0]]), torch.tensor([[1.0, float(space.mean_D[1]), 2.0]])
    # the same distance of two numbers and of three, of which one is usual
    two, three = (math.expm1(float(space.log_distance(value))) ** 2 for value in (some, mean))
    assert 2 * two == pytest.approx(3 * three, rel=1e-6)
    assert float(space.log_distance(torch.full((1, 3), math.nan))) == 0


def test_pixels_by_hand():
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, :8] = 1.0  # upper half white
    image[:, 0, 8:] = 0.3  # lower half red: grey 0.1
    found = {name: value[0].tolist() for name, value in pixel_statistics(image).items()}
    assert found["layout"] == pytest.approx([1.0] * 32 + [0.1] * 32)
    levels = [0.0] * 16
    levels[15] = levels[1] = math.sqrt(0.5)
    assert found["grey_levels"] == pytest.approx(levels)
    assert found["texture"] == pytest.approx([math.log(0.9 / 15), math.log(1e-3)])
    assert found["colour"] == pytest.approx([0.15, 0.0])


def test_the_limit_keeps_its_rate_on_images_that_it_was_not_chosen_on():
    rates = []
    for seed in range(30):
        found = fit_novelty(rows(300, 3 * seed), rows(60, 3 * seed + 1))
        assert found is not None and found.num_validation == 60
        rates.append(np.mean([seen.is_novel for seen in found.judge(rows(400, 3 * seed + 2))]))
    assert 0.02 < np.mean(rates) < 0.06, "5 % at most is what is promised, on average over validation sets"


def test_other_images_are_flagged_by_the_statistic_that_differs():
    found = fit_novelty(rows(200, 0), rows(50, 1))
    assert found is not None
    other = rows(10, 2)
    other["colour"] = other["colour"] + 12
    for seen in found.judge(other):
        assert seen.is_novel and max(seen.by, key=lambda name: seen.by[name]) == "colour"
        assert seen.note is not None and "its colour" in seen.note and "grey levels" not in seen.note
    other["colour"][0] = math.inf
    assert found.judge(other)[0].is_novel


def test_too_few_images_give_no_limit():
    few = MIN_IMAGES - 1
    assert fit_novelty(rows(few, 0), rows(50, 1)) is None
    assert fit_novelty(rows(50, 0), rows(few, 1)) is None
    assert fit_novelty(rows(50, 0), {}) is None


@torch.no_grad()
def test_noise_and_colour_are_flagged_on_a_model_of_smooth_grey_images_and_dropped_prototypes_do_not_count():
    model, draw = tiny_model(), np.random.default_rng(3)
    card = model.card
    assert card is not None
    transform = card.preprocessing.transform()

    def smooth(num: int) -> torch.Tensor:
        cells = torch.from_numpy(draw.integers(60, 200, (num, 1, 4, 4), dtype=np.uint8)).float()
        return (
            torch.nn.functional.interpolate(cells, (SIZE, SIZE), mode="bilinear").byte().expand(-1, 3, -1, -1)
        )

    def measured(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        image = transform(pixels)
        feat = model.features(image)
        score = model.similarity_scores(feat)
        return image_statistics(model, image, feat, score, preprocessing=card.preprocessing)

    found = fit_novelty(measured(smooth(80)), measured(smooth(40)))
    assert found is not None
    noise = torch.from_numpy(draw.integers(0, 256, (6, 3, SIZE, SIZE), dtype=np.uint8))
    assert all(seen.is_novel for seen in found.judge(measured(noise)))
    assert sum(seen.is_novel for seen in found.judge(measured(smooth(40)))) <= 8

    image = transform(smooth(2))
    feat = model.features(image)
    assert compare(model, image, feat, model.similarity_scores(feat)) == [None, None]
    model.prototypes.drop_(
        torch.eye(K, M, dtype=torch.bool).roll(1, dims=1) & (torch.arange(K) == 0)[:, None]
    )
    rest = measured(smooth(3))["similarity"]
    assert rest.isnan().sum() == 3 and rest[:, 1].isnan().all()


def test_json_holds_everything():
    found = fit_novelty(rows(60, 0), rows(30, 1))
    assert found is not None
    text = json.dumps(found.to_dict(), allow_nan=False)
    back = novelty_from_dict(json.loads(text), num_scores=4, where="x")
    new = rows(20, 2, shift=1.0)
    np.testing.assert_allclose(back.scores(new), found.scores(new), rtol=1e-3, atol=1e-3)
    assert (back.limit, back.num_channels) == (found.limit, 6)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("limit"),
        lambda v: v.update(limit=float("nan")),
        lambda v: v["spaces"].pop("colour"),
        lambda v: v["spaces"]["colour"].update(rest=0.0),
        lambda v: v["spaces"]["colour"]["mean"].append(0.0),
        lambda v: v["spaces"]["layout"]["axes"][0].pop(),
        lambda v: v["spaces"]["layout"]["variances"].pop(),
        lambda v: v["spaces"]["similarity"].update(mean=[0.0] * (K * M)),
        lambda v: v["spaces"]["features"].update(mean=None),
        lambda v: v.update(spaces=[]),
    ],
)
def test_values_that_cannot_be_are_refused(change):
    found = fit_novelty(rows(60, 0), rows(30, 1))
    assert found is not None
    value = copy.deepcopy(found.to_dict())
    change(value)
    with pytest.raises(InputError, match="^x"):
        novelty_from_dict(value, num_scores=4, where="x")


def test_every_statistic_has_words():
    assert set(STATISTICS) == set(LENGTHS)
