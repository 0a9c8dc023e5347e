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
CAPTION_GAP_PX = 3


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
    smooth: bool = True,
) -> np.ndarray:
    """Lay a map, enlarged to its frame, over an image: transparent at `low` and below, `alpha` at `high`.

    Args:
        image_HW3: uint8.
        map_hw: any size, any range.
        low, high: values of the map at the ends of the colour scale.
        alpha: 0 to 1.
        frame: x_min, y_min, x_max, y_max of the map as fractions of the image. It may be smaller than the
            image, which then has no colour beside it, or larger.
        smooth: whether values between the centres of cells are interpolated; else every cell has one colour.
    """
    height, width = image_HW3.shape[:2]
    left, right, across = _span(frame[0], frame[2], pixels=width, cells=map_hw.shape[1])
    top, bottom, down = _span(frame[1], frame[3], pixels=height, cells=map_hw.shape[0])
    enlarged = Image.fromarray(map_hw.astype(np.float32)).resize(
        (right - left, bottom - top),
        Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST,
        (across[0], down[0], across[1], down[1]),
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
    """Return the image with lines of text on a dark bar below it; a line that is too long goes on below."""
    height, width = image_HW3.shape[:2]
    parts = [part for line in lines for part in _wrapped(_ascii(line), width - 2 * CAPTION_GAP_PX)]
    sheet = Image.new("RGB", (width, height + CAPTION_PX * len(parts)), (24, 24, 24))
    sheet.paste(Image.fromarray(image_HW3), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for i, part in enumerate(parts):
        draw.text((CAPTION_GAP_PX, height + CAPTION_PX * i + 1), part, fill=(235, 235, 235))
    return np.asarray(sheet)


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in parts of at most `width` pixels, cut between words where one of them fits."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    parts, rest = [], text
    while rest and draw.textlength(rest) > width:
        fits = next(n for n in range(len(rest) - 1, 0, -1) if n == 1 or draw.textlength(rest[:n]) <= width)
        end = rest.rfind(" ", 1, fits + 1)
        end = fits if end < 0 else end
        parts.append(rest[:end])
        rest = rest[end:].lstrip()
    return [*parts, rest] if rest or not parts else parts


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


_MARKS = {True: (46, 160, 67), False: (235, 64, 52), None: (140, 140, 140)}
_MARK_PX = 4


def marked(image_HW3: np.ndarray, is_right: bool | None) -> np.ndarray:
    """Return the image in a frame, with a tick (green), a cross (red), or a dash (grey: nobody knows)."""
    picture = Image.fromarray(image_HW3.copy())
    width, height = picture.size
    draw, colour = ImageDraw.Draw(picture), _MARKS[is_right]
    draw.rectangle((0, 0, width - 1, height - 1), outline=colour, width=_MARK_PX)
    side = min(24, width // 4, height // 4)
    left, top = width - side, 0
    draw.rectangle((left, top, width - 1, side), fill=colour)
    strokes: dict[bool | None, list[tuple[tuple[float, float], ...]]] = {
        True: [((0.2, 0.55), (0.42, 0.78), (0.8, 0.25))],
        False: [((0.25, 0.25), (0.75, 0.75)), ((0.25, 0.75), (0.75, 0.25))],
        None: [((0.25, 0.5), (0.75, 0.5))],
    }
    for stroke in strokes[is_right]:
        points = [(left + x * side, top + y * side) for x, y in stroke]
        draw.line(points, fill=(255, 255, 255), width=max(2, side // 8))
    return np.asarray(picture)


def enlarged(image_HW3: np.ndarray, side: int) -> np.ndarray:
    """Return an image, (H,W,3) uint8, with a longest side of so many pixels."""
    picture = Image.fromarray(image_HW3)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


TILE_PX = 320  # longest side of a picture

_BOX_COLOUR = (0, 200, 255)


def picture_of(pixels: np.ndarray) -> np.ndarray:
    """Return decoded pixels as RGB with a longest side of `TILE_PX`, aspect kept."""
    return enlarged(np.asarray(Image.fromarray(pixels).convert("RGB")), TILE_PX)


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


def jpeg_address(pixels: np.ndarray, longest: int) -> str:
    """Return decoded pixels, reduced to a longest side, as the address that a page carries them under."""
    picture = Image.fromarray(pixels).convert("RGB")
    picture.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
