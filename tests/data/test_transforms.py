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
    STRENGTHS,
    EvalTransform,
    Strength,
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


def test_images_are_stored_as_large_as_the_network_takes_them():
    assert (stored_size(224), stored_size(7)) == (224, 7)
    stored = BATCH[:, :, :16, :16]
    assert torch.equal(EvalTransform(16, mean=(0, 0, 0), std=(1, 1, 1))(stored)[:, :1], stored / 255)


def dots(side, *, num=64):
    """Black pictures of 256 px with a white dot of 2 x 2 px anywhere in the middle, resized from there."""
    generator = np.random.default_rng(0)
    made = np.zeros((num, 256, 256), np.uint8)
    for image, (y, x) in zip(made, generator.integers(90, 166, (num, 2))):
        image[y : y + 2, x : x + 2] = 255
    small = [
        np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)) for image in made
    ]
    return torch.from_numpy(np.stack(small))[:, None]


def energy(image_BCHW):
    return float(image_BCHW.square().sum(dim=(1, 2, 3)).mean())


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_augmented_images_are_as_sharp_as_evaluation_shows_them(strength):
    """A bilinear grid keeps two thirds of a small dot's energy and three quarters of the grain."""
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    index = torch.arange(64)
    small = dots(128)
    seen, _ = TrainTransform(128, strength=strength, **plain)(small, index_B=index, epoch=0, seed=0)
    assert energy(seen) == pytest.approx(energy(EvalTransform(128, **plain)(small)), rel=0.15)
    grain = torch.randint(64, 192, (64, 1, 64, 64), dtype=torch.uint8, generator=GENERATOR)
    seen, _ = TrainTransform(64, strength=strength, **plain)(grain, index_B=index, epoch=0, seed=0)
    inner = (slice(None), slice(0, 1), slice(16, 48), slice(16, 48))
    spread = (seen[inner].std(dim=(2, 3)).mean() / EvalTransform(64, **plain)(grain)[inner].std()).item()
    assert spread == pytest.approx(1, abs=0.15)


def test_small_dots_are_resized_once_on_their_way_to_the_network():
    """From 256 over 144 to 128 px they would keep 0.73 of the energy."""
    kept = energy(dots(144).float()), energy(dots(stored_size(128)).float())
    twice = EvalTransform(128, mean=(0, 0, 0), std=(1, 1, 1))(dots(144))[:, :1] * 255
    once = EvalTransform(128, mean=(0, 0, 0), std=(1, 1, 1))(dots(stored_size(128)))[:, :1] * 255
    assert energy(once) == pytest.approx(kept[1]) and energy(twice) < 0.8 * energy(once)


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_draws_that_change_nothing_leave_the_plain_pixels(strength, monkeypatch):
    monkeypatch.setattr(transforms, "uniform_draws", lambda index_B, **_: torch.full((len(index_B), 7), 0.5))
    for stored in (BATCH, BATCH[:, :, :16, :16]):
        seen, theta = TrainTransform(16, strength=strength)(stored, index_B=INDEX, epoch=0, seed=0)
        torch.testing.assert_close(theta, identity_theta(4, torch.device("cpu")))
        torch.testing.assert_close(seen, EvalTransform(16)(stored), atol=1e-4, rtol=0)


def test_greys_do_not_drift():
    """Over many images neither size nor brightness nor contrast differs from what evaluation shows."""
    draws = transforms.uniform_draws(torch.arange(4000), num=7, epoch=0, seed=0)
    for strength in STRENGTHS.values():
        theta = draw_theta(draws[:, :5], strength)
        scale = torch.linalg.det(theta[:, :, :2]).abs().rsqrt()
        assert abs(float(scale.mean()) - 1) < 0.01 and float(theta[:, :, 2].mean(dim=0).abs().max()) < 0.01
    grey = torch.rand(4000, 1, 4, 4, generator=GENERATOR) * 0.4 + 0.3
    changed = transforms.change_contrast(grey, draws[:, 5], draws[:, 6], most=0.15)
    assert float(changed.mean()) == pytest.approx(float(grey.mean()), abs=0.005)


def test_strength_none_is_evaluation():
    out, theta = TrainTransform(16, strength="none")(BATCH, index_B=INDEX, epoch=3, seed=1)
    assert torch.equal(out, EvalTransform(16)(BATCH))
    assert torch.equal(theta, identity_theta(4, torch.device("cpu")))


@pytest.mark.parametrize("strength", ["light", "strong", "flip"])
def test_what_an_image_gets_depends_on_seed_epoch_and_index_alone(strength):
    transform = TrainTransform(16, strength=strength)
    whole, theta = transform(BATCH, index_B=INDEX, epoch=3, seed=1)
    for rows in ([2], [3, 0]):
        part, part_theta = transform(BATCH[rows], index_B=INDEX[rows], epoch=3, seed=1)
        torch.testing.assert_close(part, whole[rows])
        assert torch.equal(part_theta, theta[rows])
    for epoch, seed in ((4, 1), (3, 2)):
        assert not torch.equal(transform(BATCH, index_B=INDEX, epoch=epoch, seed=seed)[1], theta)


def test_theta_undoes_mirror_then_turn_then_scale_then_shift():
    draws = torch.rand(20, 5, generator=GENERATOR)
    theta = draw_theta(draws, Strength(rotation_deg=10, zoom=0.2, shift=0.05, mirror=True)).double()
    for row, matrix in zip(draws.double(), theta):
        angle = math.radians(10) * (2 * row[0] - 1)
        scale = 0.8 + 0.4 * row[1]
        turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        mirror = torch.diag(torch.tensor([-1.0 if row[4] < 0.5 else 1.0, 1.0])).double()
        shift = 0.1 * (2 * row[2:4] - 1)
        source = torch.tensor([0.3, -0.6]).double()
        shown = scale * turn @ mirror @ source + shift
        torch.testing.assert_close(matrix[:, :2] @ shown + matrix[:, 2], source, atol=1e-6, rtol=0)


def test_only_flip_mirrors_and_it_mirrors_half_of_the_images():
    draws = torch.rand(400, 5, generator=GENERATOR)
    mirrored = {name: (draw_theta(draws, strength)[:, 0, 0] < 0) for name, strength in STRENGTHS.items()}
    share = mirrored.pop("flip").float().mean()
    assert not any(turned.any() for turned in mirrored.values())
    assert 0.4 < share < 0.6


def cubic(offset, *, a=-0.75):
    """Keys' cubic convolution kernel with torch's parameter."""
    x = abs(offset)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def test_pixels_follow_theta_as_in_a_slow_cubic_loop():
    transform = TrainTransform(8, mean=(0, 0, 0), std=(1, 1, 1), strength="strong")
    image = BATCH[:1, :, :8, :8]
    out, theta = transform(image, index_B=INDEX[:1], epoch=0, seed=0)
    draws = transforms.uniform_draws(INDEX[:1], num=7, epoch=0, seed=0)[0].tolist()
    value = image[0, 0].numpy() / 255
    moved = np.zeros((8, 8))
    for row in range(8):
        for column in range(8):
            point = np.array([(2 * column + 1) / 8 - 1, (2 * row + 1) / 8 - 1, 1.0])
            x, y = (theta[0].double().numpy() @ point + 1) / 2 * 8 - 0.5
            moved[row, column] = sum(  # what lies outside repeats the edge
                cubic(y - r) * cubic(x - c) * value[min(max(r, 0), 7), min(max(c, 0), 7)]
                for r in range(-4, 12)
                for c in range(-4, 12)
            )
    gain, light = (1 + 0.15 * (2 * d - 1) for d in draws[5:])
    wanted = np.clip((moved.mean() + gain * (moved - moved.mean())) * light, 0, 1)
    np.testing.assert_allclose(out[0, 1], wanted, atol=1e-5)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_an_image_of_one_grey_has_no_edge_after_it_has_moved(strength):
    """Evaluation never shows black wedges beside the image, so training does not either."""
    grey = torch.full((4, 1, 32, 32), 128, dtype=torch.uint8)
    out, _ = TrainTransform(32, mean=(0, 0, 0), std=(1, 1, 1), strength=strength)(
        grey, index_B=INDEX, epoch=1, seed=0
    )
    spread_B = out.amax((1, 2, 3)) - out.amin((1, 2, 3))
    assert float(spread_B.max()) < 1e-5


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
    stripes = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    transform, index = TrainTransform(64, mean=(0, 0, 0), std=(1, 1, 1)), torch.tensor([4])
    whole, theta = transform(stripes, index_B=index, epoch=2, seed=0)
    small, same = transform(stripes, index_B=index, epoch=2, seed=0, side=32)
    full, _ = transform(stripes, index_B=index, epoch=2, seed=0, side=64)
    assert torch.equal(theta, same) and torch.equal(full, whole)
    assert small.shape == (1, 3, 32, 32)
    # stripes of one pixel are grey at half the side; read by the grid alone they would stay black and white
    assert float(small[..., 12:20, 12:20].std()) < 0.05 < float(whole[..., 24:40, 24:40].std())
