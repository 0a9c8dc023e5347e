"""Transforms of stored uint8 images to normalised model input, a batch at once, on the batch's device.

Letters: B batch, C stored channels (1 or 3), S stored side, H W output size, R boxes, K concepts.
Points are normalised: -1 and 1 are the outer edges of the image, whatever its resolution.
`theta_B23` maps points of the output to points of the stored image, as `affine_grid` expects it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.nn import functional as F

from csr.data.box_masks import box_masks, transform_boxes
from csr.data.random_draws import uniform_draws

__all__ = [
    "EvalTransform",
    "TrainTransform",
    "box_masks",
    "identity_theta",
    "stored_size",
    "transform_boxes",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_ROTATION_DEG = 10.0
SCALE_RANGE = (0.85, 1.1)
MAX_SHIFT = 0.05  # of the image's side
MAX_CONTRAST = 0.15
STRENGTHS = ("none", "light", "flip")


def stored_size(size: int) -> int:
    """Return the side in pixels of stored images for model input of side `size`: an eighth more."""
    return size + size // 8


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
        value = image_BCSS.float()
        if image_BCSS.shape[-2:] != (self.size, self.size):
            value = resized(value, self.size)
        return normalise(value / 255, mean=self.mean, std=self.std)


class TrainTransform:
    """Random rotation, zoom, shift, brightness and contrast; every image of the batch its own.

    The transform of an image depends on (seed, epoch, index) only: not on the rank, the batch or the order.
    One `grid_sample` does all of the geometry; what comes from outside the image is black.

    Args:
        size: side of the model input in pixels.
        mean, std: see `EvalTransform`.
        strength: `light`; `flip` (light, and a mirror image half of the time, for organs without a left and
            a right); `none` (as `EvalTransform`).
    """

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        strength: str = "light",
    ) -> None:
        assert strength in STRENGTHS, strength
        self.size, self.mean, self.std, self.strength = size, tuple(mean), tuple(std), strength
        self._plain = EvalTransform(size, mean=mean, std=std)

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
            side: of the output in pixels (default: `size`). For a smaller one stored images are first resized
                (antialiased) to what would be stored for it; the draws are the same.
        """
        is_small = side is not None and side != self.size
        side = side or self.size
        if self.strength == "none":
            plain = EvalTransform(side, mean=self.mean, std=self.std) if is_small else self._plain
            return plain(image_BCSS), identity_theta(len(image_BCSS), image_BCSS.device)
        draw_B7 = uniform_draws(index_B.to(image_BCSS.device), num=7, epoch=epoch, seed=seed)
        # within a pass in half precision too: there the grid's products would shift it by up to half a pixel
        with torch.autocast(image_BCSS.device.type, enabled=False):
            theta_B23 = draw_theta(draw_B7[:, :5], mirror=self.strength == "flip")
            shape = [len(image_BCSS), image_BCSS.shape[1], side, side]
            grid = F.affine_grid(theta_B23, shape, align_corners=False)
        value = image_BCSS.float() / 255
        if is_small:  # the grid reads single pixels: without a resize before it, it would alias
            value = resized(value, stored_size(side))
        value = F.grid_sample(value, grid, align_corners=False)
        value = change_contrast(value, draw_B7[:, 5], draw_B7[:, 6])
        return normalise(value, mean=self.mean, std=self.std), theta_B23


def resized(value_BCHW: torch.Tensor, side: int) -> torch.Tensor:
    """Return images of a side in pixels, float (B, C, side, side): bilinear, antialiased."""
    shape = (side, side)
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
    value_BCHW: torch.Tensor, contrast_B: torch.Tensor, brightness_B: torch.Tensor
) -> torch.Tensor:
    """Return images with contrast around their mean, then brightness, changed by up to 15 %, in [0, 1].

    Args:
        value_BCHW: in [0, 1].
        contrast_B, brightness_B: (B,) draws in [0, 1); 0.5 changes nothing.
    """
    gain_B, light_B = (
        (1 + MAX_CONTRAST * (2 * draw - 1)).view(-1, 1, 1, 1) for draw in (contrast_B, brightness_B)
    )
    mean_B = value_BCHW.mean(dim=(1, 2, 3), keepdim=True)
    return ((mean_B + gain_B * (value_BCHW - mean_B)) * light_B).clamp(0, 1)


def identity_theta(num: int, device: torch.device) -> torch.Tensor:
    """Return `theta_B23` of `num` images that moves nothing."""
    return torch.eye(2, 3, device=device).repeat(num, 1, 1)


def draw_theta(draw_B5: torch.Tensor, *, mirror: bool) -> torch.Tensor:
    """Return `theta_B23` of draws in [0, 1), (B, 5): angle, scale, shift in x and y, mirror.

    A scale above 1 makes the content larger; a shift moves it right and down.
    """
    angle_B = math.radians(MAX_ROTATION_DEG) * (2 * draw_B5[:, 0] - 1)
    low, high = SCALE_RANGE
    scale_B = low + (high - low) * draw_B5[:, 1]
    # A fraction of the side is twice as much in coordinates from -1 to 1.
    shift_B2 = 2 * MAX_SHIFT * (2 * draw_B5[:, 2:4] - 1)
    sign_B = torch.where(draw_B5[:, 4] < 0.5, -1.0, 1.0) if mirror else torch.ones_like(angle_B)
    cos_B, sin_B = angle_B.cos() / scale_B, angle_B.sin() / scale_B
    turn_B22 = torch.stack([sign_B * cos_B, sign_B * sin_B, -sin_B, cos_B], dim=1).view(-1, 2, 2)
    return torch.cat([turn_B22, -turn_B22 @ shift_B2.unsqueeze(2)], dim=2)
