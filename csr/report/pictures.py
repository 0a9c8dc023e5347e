"""Pictures of what a model looks at: heat maps over images, side by side, as uint8 arrays."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import torch
from PIL import Image, ImageDraw

# a dark-to-light ramp whose brightness rises with the value (readable in grey and by the colour-blind)
_STOPS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=np.float32)
CAPTION_PX = 14


def heat_colours(value_HW: np.ndarray) -> np.ndarray:
    """Map 0..1 to RGB: (H, W) -> (H, W, 3) uint8."""
    at = np.clip(value_HW, 0, 1) * (len(_STOPS) - 1)
    low = np.minimum(at.astype(int), len(_STOPS) - 2)
    part = (at - low)[..., None]
    return np.round(_STOPS[low] * (1 - part) + _STOPS[low + 1] * part).astype(np.uint8)


Frame = tuple[float, float, float, float]
_WHOLE: Frame = (0.0, 0.0, 1.0, 1.0)


def overlay(
    image_HW3: np.ndarray,
    map_hw: np.ndarray,
    *,
    low: float,
    high: float,
    alpha: float = 0.45,
    frame: Frame = _WHOLE,
) -> np.ndarray:
    """Lay a map, enlarged to its frame, over an image: transparent at `low` and below, `alpha` at `high`.

    Args:
        image_HW3: uint8.
        map_hw: any size, any range.
        low, high: values of the map at the ends of the colour scale.
        alpha: 0 to 1.
        frame: x_min, y_min, x_max, y_max of the map as fractions of the image. It may be smaller than the
            image, which then has no colour beside it, or larger.
    """
    height, width = image_HW3.shape[:2]
    left, right, across = _span(frame[0], frame[2], pixels=width, cells=map_hw.shape[1])
    top, bottom, down = _span(frame[1], frame[3], pixels=height, cells=map_hw.shape[0])
    enlarged = Image.fromarray(map_hw.astype(np.float32)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, (across[0], down[0], across[1], down[1])
    )
    value = np.zeros((height, width), dtype=np.float32)
    value[top:bottom, left:right] = np.clip((np.asarray(enlarged) - low) / max(high - low, 1e-6), 0, 1)
    weight = (alpha * value)[..., None]
    return np.round(image_HW3 * (1 - weight) + heat_colours(value) * weight).astype(np.uint8)


def colour_ramp(width: int, height: int) -> np.ndarray:
    """Return the colours of maps from clear to brightest, left to right, (height, width, 3) uint8."""
    return heat_colours(np.repeat(np.linspace(0, 1, width)[None], height, axis=0))


def _span(low: float, high: float, *, pixels: int, cells: int) -> tuple[int, int, tuple[float, float]]:
    """Return the pixels whose centres lie between two fractions of a side, and the cells that they show.

    Returns:
        First pixel, pixel after the last one, and the two ends of the part of the map, in cells.
    """
    first = min(pixels - 1, max(0, math.ceil(low * pixels - 0.5)))
    last = max(first, min(pixels - 1, math.floor(high * pixels - 0.5)))
    ends = [(end / pixels - low) / (high - low) * cells for end in (first, last + 1)]
    return first, last + 1, (max(0.0, ends[0]), min(float(cells), ends[1]))


def captioned(image_HW3: np.ndarray, lines: list[str]) -> np.ndarray:
    """Return the image with lines of text on a dark bar below it."""
    height, width = image_HW3.shape[:2]
    sheet = Image.new("RGB", (width, height + CAPTION_PX * len(lines)), (24, 24, 24))
    sheet.paste(Image.fromarray(image_HW3), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((3, height + CAPTION_PX * i + 1), _ascii(line), fill=(235, 235, 235))
    return np.asarray(sheet)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def row(images: list[np.ndarray], *, gap: int = 4) -> np.ndarray:
    """Return pictures of one height side by side."""
    height = max(i.shape[0] for i in images)
    padded = [np.pad(i, ((0, height - i.shape[0]), (0, gap), (0, 0)), constant_values=255) for i in images]
    return np.concatenate(padded, axis=1)


def column(rows: list[np.ndarray], *, gap: int = 4) -> np.ndarray:
    """Return rows of pictures below each other."""
    width = max(r.shape[1] for r in rows)
    padded = [np.pad(r, ((0, gap), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    return np.concatenate(padded, axis=0)


def to_rgb(image_CHW: torch.Tensor) -> np.ndarray:
    """Return a stored image (uint8, 1 or 3 channels first) as (H, W, 3)."""
    image_HWC = image_CHW.permute(1, 2, 0).cpu().numpy()
    return np.repeat(image_HWC, 3, axis=2) if image_HWC.shape[2] == 1 else image_HWC


TILE_PX = 320  # longest side of a picture

_BOX_COLOUR = (0, 200, 255)


def picture_of(pixels: np.ndarray) -> np.ndarray:
    """Return decoded pixels as RGB with a longest side of `TILE_PX`, aspect kept."""
    picture = Image.fromarray(pixels).convert("RGB")
    scale = TILE_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def framed(image_HW3: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the image with a box (fractions) drawn on it."""
    picture = Image.fromarray(image_HW3.copy())
    width, height = picture.size
    corners = [round(value * side) for value, side in zip(box, (width, height, width, height), strict=True)]
    corners[2:] = [
        max(low, min(high - 1, limit - 1))
        for low, high, limit in zip(corners[:2], corners[2:], (width, height), strict=True)
    ]
    ImageDraw.Draw(picture).rectangle(corners, outline=_BOX_COLOUR, width=2)
    return np.asarray(picture)


def png_bytes(image_HW3: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, "PNG")
    return buffer.getvalue()


def data_address(image_HW3: np.ndarray) -> str:
    """Return a picture, (H,W,3) uint8, as the address that a page carries it under."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image_HW3)).decode()
