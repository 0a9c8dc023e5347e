"""The square that the network sees of an image, in the image's own coordinates.

    squash      the whole image, its sides scaled apart from each other
    letterbox   the whole image and black beside its shorter sides; the aspect is kept
    crop        the central square; the aspect is kept, the ends of the longer side are not seen

A frame is the square's x_min, y_min, x_max, y_max as fractions of the image: 0 and 1 are the image's edges, a
letterbox reaches beyond them. Points go from image to square and back by it alone, whatever the mode.

Letters: N images, R boxes, S side of the stored square.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SQUASH, LETTERBOX, CROP = RESIZES = ("squash", "letterbox", "crop")
Frame = tuple[float, float, float, float]
WHOLE: Frame = (0.0, 0.0, 1.0, 1.0)


def frames_of(size_N2: np.ndarray, *, resize: str, side: int) -> np.ndarray:
    """Return the frames of images, float64 (N, 4).

    Args:
        size_N2: heights and widths of the originals as displayed, pixels.
        resize: one of `RESIZES`.
        side: S, pixels; a letterbox has whole pixels of black.
    """
    size = np.asarray(size_N2, dtype=np.int64).reshape(-1, 2)
    if resize == SQUASH:
        return np.tile(np.asarray(WHOLE), (len(size), 1))
    if resize == CROP:
        # Both ends from whole numbers, so that 0 and 1 are exact along the shorter side.
        shorter_N1 = size.min(axis=1, keepdims=True)
        low_N2, high_N2 = (size - shorter_N1) / (2 * size), (size + shorter_N1) / (2 * size)
    else:
        assert resize == LETTERBOX, resize
        inner_N2 = inner_sides(size, side=side)
        before_N2 = (side - inner_N2) // 2
        low_N2, high_N2 = -before_N2 / inner_N2, (side - before_N2) / inner_N2
    return np.concatenate([low_N2[:, ::-1], high_N2[:, ::-1]], axis=1)


def inner_sides(size_N2: np.ndarray, *, side: int) -> np.ndarray:
    """Return height and width of each image inside its letterbox, int64 (N, 2), at least one pixel."""
    longest_N1 = size_N2.max(axis=1, keepdims=True)
    return np.maximum(1, (2 * side * size_N2 + longest_N1) // (2 * longest_N1))


def frame_of(height: int, width: int, *, resize: str, side: int) -> Frame:
    """Return the frame of one image, see `frames_of`."""
    x_min, y_min, x_max, y_max = frames_of(np.array([[height, width]]), resize=resize, side=side)[0].tolist()
    return x_min, y_min, x_max, y_max


def to_square(pixels: np.ndarray, *, height: int, width: int, resize: str, side: int) -> np.ndarray:
    """Return the square of an image: bilinear, antialiased.

    Args:
        pixels: uint8 (H, W) or (H, W, 3), the image or a reduced copy of it.
        height, width: of the original, pixels.
        resize: one of `RESIZES`.
        side: S, pixels.

    Returns:
        uint8 (S, S) or (S, S, 3).
    """
    picture = Image.fromarray(pixels)
    if resize == LETTERBOX:
        inner_height, inner_width = inner_sides(np.array([[height, width]]), side=side)[0].tolist()
        inner = np.asarray(picture.resize((inner_width, inner_height), Image.Resampling.BILINEAR))
        square = np.zeros((side, side, *inner.shape[2:]), dtype=np.uint8)
        top, left = (side - inner_height) // 2, (side - inner_width) // 2
        square[top : top + inner_height, left : left + inner_width] = inner
        return square
    box = None
    if resize == CROP:
        frame = frame_of(height, width, resize=resize, side=side)
        limits = (picture.width, picture.height) * 2
        left, top, right, bottom = (share * limit for share, limit in zip(frame, limits, strict=True))
        box = (left, top, right, bottom)
    return np.array(picture.resize((side, side), Image.Resampling.BILINEAR, box=box))


def boxes_in_square(box_R4: np.ndarray, frame_R4: np.ndarray) -> np.ndarray:
    """Return boxes as fractions of the square, (R, 4), which may reach beyond it.

    Args:
        box_R4: x_min, y_min, x_max, y_max as fractions of the image.
        frame_R4: of each box's image, or one (4,) for all.
    """
    low, high = frame_R4[..., [0, 1, 0, 1]], frame_R4[..., [2, 3, 2, 3]]
    return (box_R4 - low) / (high - low)


def point_on_image(point: tuple[float, float], frame: Frame) -> tuple[float, float]:
    """Return a point of the square (x, y, fractions of it) as fractions of the image."""
    x, y = point
    return frame[0] + x * (frame[2] - frame[0]), frame[1] + y * (frame[3] - frame[1])


def box_on_image(box: Frame, frame: Frame) -> Frame:
    """Return a box of the square as fractions of the image; in a letterbox it may reach beyond the image."""
    return *point_on_image(box[:2], frame), *point_on_image(box[2:], frame)
