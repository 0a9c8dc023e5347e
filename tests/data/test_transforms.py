"""Batched transforms: values against slow references, draws by image and epoch only."""

import math
import sys

import numpy as np
import pytest
import torch
from on_device import compute_there
from PIL import Image

from csr.data import transforms
from csr.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EvalTransform,
    TrainTransform,
    draw_theta,
    identity_theta,
    stored_size,
)

GENERATOR = torch.Generator().manual_seed(0)
BATCH = torch.randint(0, 256, (4, 1, 18, 18), dtype=torch.uint8, generator=GENERATOR)
INDEX = torch.tensor([5, 2, 9, 4])


@pytest.fixture(autouse=True)
def _there(device, monkeypatch):
    compute_there(
        monkeypatch, sys.modules[__name__], "EvalTransform", "TrainTransform", "draw_theta", device=device
    )


def test_evaluation_normalises_each_channel():
    image = torch.tensor([[[[0]], [[51]], [[255]]]], dtype=torch.uint8)
    wanted = [(v - m) / s for v, m, s in zip((0, 0.2, 1), IMAGENET_MEAN, IMAGENET_STD)]
    torch.testing.assert_close(EvalTransform(1)(image).flatten(), torch.tensor(wanted))


def test_evaluation_resizes_as_pillow_does():
    out = EvalTransform(16, mean=(0, 0, 0), std=(1, 1, 1))(BATCH)
    assert out.shape == (4, 3, 16, 16) and out.dtype == torch.float32
    for image, made in zip(BATCH[:, 0], out):
        small = Image.fromarray(image.numpy()).resize((16, 16), Image.Resampling.BILINEAR)
        for channel in made:
            np.testing.assert_allclose(channel * 255, np.asarray(small), atol=1)


def test_images_are_stored_an_eighth_larger():
    assert (stored_size(224), stored_size(16), stored_size(7)) == (252, 18, 7)


def test_strength_none_is_evaluation():
    out, theta = TrainTransform(16, strength="none")(BATCH, index_B=INDEX, epoch=3, seed=1)
    assert torch.equal(out, EvalTransform(16)(BATCH))
    assert torch.equal(theta, identity_theta(4, torch.device("cpu")))


@pytest.mark.parametrize("strength", ["light", "flip"])
def test_what_an_image_gets_depends_on_seed_epoch_and_index_alone(strength):
    transform = TrainTransform(16, strength=strength)
    whole, theta = transform(BATCH, index_B=INDEX, epoch=3, seed=1)
    for rows in ([2], [3, 0]):
        part, part_theta = transform(BATCH[rows], index_B=INDEX[rows], epoch=3, seed=1)
        torch.testing.assert_close(part, whole[rows])
        assert torch.equal(part_theta, theta[rows])
    for epoch, seed in ((4, 1), (3, 2)):
        assert not torch.equal(transform(BATCH, index_B=INDEX, epoch=epoch, seed=seed)[1], theta)


def test_draws_in_the_middle_move_nothing_but_scale():
    middle = torch.full((1, 5), 0.5)
    scale = sum(transforms.SCALE_RANGE) / 2
    torch.testing.assert_close(draw_theta(middle, mirror=False)[0, :, :2], torch.eye(2) / scale)
    assert not draw_theta(middle, mirror=False)[0, :, 2].any()


def test_theta_undoes_mirror_then_turn_then_scale_then_shift():
    draws = torch.rand(20, 5, generator=GENERATOR)
    theta = draw_theta(draws, mirror=True).double()
    for row, matrix in zip(draws.double(), theta):
        angle = math.radians(10) * (2 * row[0] - 1)
        scale = 0.85 + 0.25 * row[1]
        turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        mirror = torch.diag(torch.tensor([-1.0 if row[4] < 0.5 else 1.0, 1.0])).double()
        shift = 0.1 * (2 * row[2:4] - 1)
        source = torch.tensor([0.3, -0.6]).double()
        shown = scale * turn @ mirror @ source + shift
        torch.testing.assert_close(matrix[:, :2] @ shown + matrix[:, 2], source, atol=1e-6, rtol=0)


def test_only_flip_mirrors_and_it_mirrors_half_of_the_images():
    draws = torch.rand(400, 5, generator=GENERATOR)
    assert (draw_theta(draws, mirror=False)[:, 0, 0] > 0).all()
    share = (draw_theta(draws, mirror=True)[:, 0, 0] < 0).float().mean()
    assert 0.4 < share < 0.6


def test_pixels_follow_theta_as_in_a_slow_bilinear_loop():
    transform = TrainTransform(6, mean=(0, 0, 0), std=(1, 1, 1))
    image = BATCH[:1, :, :8, :8]
    out, theta = transform(image, index_B=INDEX[:1], epoch=0, seed=0)
    draws = transforms.uniform_draws(INDEX[:1], num=7, epoch=0, seed=0)[0].tolist()
    value = image[0, 0].numpy() / 255

    def pixel(row, column):
        inside = 0 <= row < 8 and 0 <= column < 8
        return value[row, column] if inside else 0.0

    moved = np.zeros((6, 6))
    for row in range(6):
        for column in range(6):
            point = np.array([(2 * column + 1) / 6 - 1, (2 * row + 1) / 6 - 1, 1.0])
            x, y = (theta[0].double().numpy() @ point + 1) / 2 * 8 - 0.5
            left, top = math.floor(x), math.floor(y)
            for dr, wr in ((0, top + 1 - y), (1, y - top)):
                for dc, wc in ((0, left + 1 - x), (1, x - left)):
                    moved[row, column] += wr * wc * pixel(top + dr, left + dc)
    gain, light = (1 + 0.15 * (2 * d - 1) for d in draws[5:])
    wanted = np.clip((moved.mean() + gain * (moved - moved.mean())) * light, 0, 1)
    np.testing.assert_allclose(out[0, 1], wanted, atol=1e-5)


def test_three_channels_stay_three():
    colour = BATCH.repeat(1, 3, 1, 1)
    out, _ = TrainTransform(16)(colour, index_B=INDEX, epoch=0, seed=0)
    grey, _ = TrainTransform(16)(BATCH, index_B=INDEX, epoch=0, seed=0)
    torch.testing.assert_close(out, grey, atol=1e-5, rtol=0)


def test_a_pass_in_half_precision_samples_where_training_does():
    """affine_grid and the transform's matrix are products: autocast would round them to 8 bits."""
    image = torch.randint(0, 256, (4, 1, 72, 72), dtype=torch.uint8)
    transform = TrainTransform(64)
    expected = transform(image, index_B=torch.arange(4), epoch=1, seed=0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = transform(image, index_B=torch.arange(4), epoch=1, seed=0)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_a_smaller_side_keeps_the_draws_and_is_antialiased():
    stripes = torch.zeros(1, 1, 72, 72, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    transform, index = TrainTransform(64, mean=(0, 0, 0), std=(1, 1, 1)), torch.tensor([4])
    whole, theta = transform(stripes, index_B=index, epoch=2, seed=0)
    small, same = transform(stripes, index_B=index, epoch=2, seed=0, side=32)
    full, _ = transform(stripes, index_B=index, epoch=2, seed=0, side=64)
    assert torch.equal(theta, same) and torch.equal(full, whole)
    assert small.shape == (1, 3, 32, 32)
    # stripes of one pixel are grey at half the side; read by the grid alone they would stay black and white
    assert float(small[..., 12:20, 12:20].std()) < 0.05 < float(whole[..., 24:40, 24:40].std())
