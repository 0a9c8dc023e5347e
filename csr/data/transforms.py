"""Transforms of stored uint8 images to normalised model input, a batch at once, on the batch's device.

Letters: B batch, C stored channels (1 or 3), S stored side, H W output size, R boxes, K concepts.
Points are normalised: -1 and 1 are the outer edges of the image, whatever its resolution.
`theta_B23` maps points of the output to points of the stored image, as `affine_grid` expects it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.nn import functional as F

from csr.data.box_masks import box_masks, transform_boxes
from csr.data.random_draws import uniform_draws

__all__ = [
    "STRENGTHS",
    "EvalTransform",
    "Strength",
    "TrainTransform",
    "box_masks",
    "identity_theta",
    "stored_size",
    "transform_boxes",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Strength:
    """How far the augmentation changes an image at most; all draws are even, on both sides of no change.

    Attributes:
        rotation_deg: degrees.
        zoom: 0.1 is a scale of 0.9 to 1.1.
        shift: in x and in y, of the image's side.
        contrast: of contrast, and of brightness; 0.15 is 15 %.
        mirror: a mirror image half of the time, for organs without a left and a right.
    """

    rotation_deg: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0
    mirror: bool = False


# scripts/bench/defaults.py compares them
LIGHT = Strength(rotation_deg=5, zoom=0.1, shift=0.03)
STRENGTHS = {
    "none": Strength(),
    "light": LIGHT,
    "strong": Strength(rotation_deg=10, zoom=0.15, shift=0.05, contrast=0.15),
    "flip": replace(LIGHT, mirror=True),
}


def stored_size(size: int) -> int:
    """Return the side in pixels of stored images for model input of side `size`: the same.

    A larger one would be resized once more for each use, and every resize blurs: on the way from 256 over 144
    to 128 pixels a dot of 2 x 2 pixels keeps 0.73 of the energy that it has after one resize.
    """
    return size


class EvalTransform:
    """Resize (antialiased) and normalise, the same for validation, test and prediction.

    Args:
        size: side of the model input in pixels.
        mean, std: for each of the three channels, of values in [0, 1] (default: ImageNet's).
    """

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)

    def __call__(self, image_BCSS: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, 3, size, size) of uint8 (B, 1 or 3, S, S)."""
        value = resized(image_BCSS.float(), self.size)
        return normalise(value / 255, mean=self.mean, std=self.std)


class TrainTransform:
    """Random rotation, zoom, shift, brightness and contrast; every image of the batch its own.

    The transform of an image depends on (seed, epoch, index) only: not on the rank, the batch or the order.
    The plain pixels of `EvalTransform` are moved by one cubic interpolation, which keeps fine detail as sharp
    as evaluation shows it (a bilinear one takes a third of a small dot's energy). What comes from outside the
    image repeats its edge: black wedges, which evaluation never shows, cost more accuracy than the rest of
    `light` (scripts/bench/README.md), and a mirrored edge would show findings that no box names.

    Args:
        size: side of the model input in pixels.
        mean, std: see `EvalTransform`.
        strength: a name in `STRENGTHS`; with `none` the output is that of `EvalTransform`.
    """

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        strength: str = "light",
    ) -> None:
        self.size, self.mean, self.std, self.strength = size, tuple(mean), tuple(std), strength
        self._most = STRENGTHS[strength]

    def __call__(
        self,
        image_BCSS: torch.Tensor,
        *,
        index_B: torch.Tensor,
        epoch: int,
        seed: int,
        side: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 (B, 3, side, side) and float32 `theta_B23`.

        Args:
            image_BCSS: uint8, 1 or 3 channels.
            index_B: int64, rows of the label table.
            epoch, seed: decide the draws together with `index_B`.
            side: of the output in pixels (default: `size`); the draws are the same for every side.
        """
        side = side or self.size
        if self.strength == "none":
            plain = EvalTransform(side, mean=self.mean, std=self.std)
            return plain(image_BCSS), identity_theta(len(image_BCSS), image_BCSS.device)
        draw_B7 = uniform_draws(index_B.to(image_BCSS.device), num=7, epoch=epoch, seed=seed)
        value = resized(image_BCSS.float(), side) / 255
        # within a pass in half precision too: there the grid's products would shift it by up to half a pixel
        with torch.autocast(image_BCSS.device.type, enabled=False):
            theta_B23 = draw_theta(draw_B7[:, :5], self._most)
            grid = F.affine_grid(theta_B23, list(value.shape), align_corners=False)
        value = F.grid_sample(value, grid, mode="bicubic", padding_mode="border", align_corners=False)
        value = change_contrast(value, draw_B7[:, 5], draw_B7[:, 6], most=self._most.contrast)
        return normalise(value, mean=self.mean, std=self.std), theta_B23


def resized(value_BCHW: torch.Tensor, side: int) -> torch.Tensor:
    """Return images of a side in pixels, float (B, C, side, side): bilinear, antialiased."""
    shape = (side, side)
    if value_BCHW.shape[-2:] == shape:
        return value_BCHW
    return F.interpolate(value_BCHW, shape, mode="bilinear", align_corners=False, antialias=True)


def normalise(value_BCHW: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (value - mean) / std, (B, 3, H, W); a grey image (B, 1, H, W) broadcasts to three channels."""
    mean_1311, std_1311 = (_channels(tuple(v), value_BCHW.device) for v in (mean, std))
    return (value_BCHW - mean_1311) / std_1311


@lru_cache(maxsize=16)  # a fresh tensor in every step would make the GPU wait for the copy
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    # An inference tensor in the cache could not take part in gradients later.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def change_contrast(
    value_BCHW: torch.Tensor, contrast_B: torch.Tensor, brightness_B: torch.Tensor, *, most: float
) -> torch.Tensor:
    """Return images with contrast around their mean, then brightness, changed, in [0, 1].

    Args:
        value_BCHW: in [0, 1] (cubic interpolation goes a little beyond).
        contrast_B, brightness_B: (B,) draws in [0, 1); 0.5 changes nothing.
        most: the largest change of either; 0.15 is 15 %.
    """
    gain_B, light_B = ((1 + most * (2 * draw - 1)).view(-1, 1, 1, 1) for draw in (contrast_B, brightness_B))
    mean_B = value_BCHW.mean(dim=(1, 2, 3), keepdim=True)
    return ((mean_B + gain_B * (value_BCHW - mean_B)) * light_B).clamp(0, 1)


def identity_theta(num: int, device: torch.device) -> torch.Tensor:
    """Return `theta_B23` of `num` images that moves nothing."""
    return torch.eye(2, 3, device=device).repeat(num, 1, 1)


def draw_theta(draw_B5: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Return `theta_B23` of draws in [0, 1), (B, 5): angle, scale, shift in x and y, mirror.

    A scale above 1 makes the content larger; a shift moves it right and down. Draws of 0.5 move nothing.
    """
    change_B4 = 2 * draw_B5[:, :4] - 1
    angle_B = math.radians(strength.rotation_deg) * change_B4[:, 0]
    scale_B = 1 + strength.zoom * change_B4[:, 1]
    # A fraction of the side is twice as much in coordinates from -1 to 1.
    shift_B2 = 2 * strength.shift * change_B4[:, 2:]
    ones_B = torch.ones_like(angle_B)
    sign_B = torch.where(draw_B5[:, 4] < 0.5, -ones_B, ones_B) if strength.mirror else ones_B
    cos_B, sin_B = angle_B.cos() / scale_B, angle_B.sin() / scale_B
    turn_B22 = torch.stack([sign_B * cos_B, sign_B * sin_B, -sin_B, cos_B], dim=1).view(-1, 2, 2)
    return torch.cat([turn_B22, -turn_B22 @ shift_B2.unsqueeze(2)], dim=2)
