"""Maps over images lie on their frames."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from csr.report.pictures import _wrapped, captioned, heat_colours, marked, overlay

HEIGHT, WIDTH = 120, 240


def heat_of(frame, *, at=(3, 5)):
    """Return where a map of one hot cell of 8 x 8 colours a black image, 0 to 1."""
    map_hw = np.zeros((8, 8), dtype=np.float32)
    map_hw[at] = 1
    black = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    return overlay(black, map_hw, low=0, high=1, alpha=1, frame=frame).max(axis=2) / 255


@pytest.mark.parametrize(
    "frame", [(0, 0, 1, 1), (0, -0.5, 1, 1.5), (-0.5, 0, 1.5, 1), (0.25, 0, 0.75, 1), (0.1, 0.3, 0.7, 0.9)]
)
def test_a_hot_cell_is_where_its_frame_puts_it(frame):
    x_min, y_min, x_max, y_max = frame
    x = (x_min + 5.5 / 8 * (x_max - x_min)) * WIDTH
    y = (y_min + 3.5 / 8 * (y_max - y_min)) * HEIGHT
    heat = heat_of(frame)
    ys, xs = np.nonzero(heat > 0.7)
    assert (xs.mean() + 0.5, ys.mean() + 0.5) == pytest.approx((x, y), abs=1.0)
    # Bilinear between centres: colour reaches one cell to each side of the centre and no farther.
    reach_x, reach_y = (x_max - x_min) * WIDTH / 8, (y_max - y_min) * HEIGHT / 8
    ys, xs = np.nonzero(heat > 0.01)
    expected = np.clip(
        [x - reach_x, x + reach_x, y - reach_y, y + reach_y], 0, [WIDTH, WIDTH, HEIGHT, HEIGHT]
    )
    np.testing.assert_allclose([xs.min(), xs.max() + 1, ys.min(), ys.max() + 1], expected, atol=5)


def test_beside_a_crop_there_is_no_colour():
    black = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    shown = overlay(black, np.ones((4, 4)), low=0, high=1, alpha=1, frame=(0.25, 0, 0.75, 1))
    assert (shown[:, :60] == 0).all() and (shown[:, 180:] == 0).all()
    assert (shown[:, 60:180].max(axis=2) == 255).all()


def test_a_map_of_the_whole_image_is_enlarged_as_before():
    rng = np.random.default_rng(0)
    image, map_hw = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8), rng.random((7, 9), dtype=np.float32)
    large = np.asarray(Image.fromarray(map_hw).resize((53, 37), Image.Resampling.BILINEAR))
    value = np.clip((large - 0.2) / 0.6, 0, 1)
    weight = 0.45 * value[..., None]
    expected = np.round(image * (1 - weight) + heat_colours(value) * weight).astype(np.uint8)
    np.testing.assert_array_equal(overlay(image, map_hw, low=0.2, high=0.8), expected)


@pytest.mark.parametrize("width", [30, 120, 400])
@pytest.mark.parametrize("text", ["short", "several words that go on and on beyond a picture", "x" * 80])
def test_captions_are_never_wider_than_their_picture_and_lose_no_letter(text, width):
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    parts = _wrapped(text, width)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")
    assert all(draw.textlength(part) <= width for part in parts)
    assert captioned(np.zeros((20, width + 6, 3), np.uint8), [text]).shape[0] == 20 + 14 * len(parts)


def test_an_empty_line_takes_its_place():
    assert captioned(np.zeros((20, 50, 3), np.uint8), ["", ""]).shape[0] == 20 + 2 * 14


@pytest.mark.parametrize("is_right, channel", [(True, 1), (False, 0)])
def test_marks_are_frames_of_their_colour_around_an_unchanged_picture(is_right, channel):
    image = np.full((60, 80, 3), 100, np.uint8)
    picture = marked(image, is_right)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (border.argmax(1) == channel).mean() > 0.9 and (image == 100).all()
    assert (picture[30:56, 4:76] == 100).all()
    assert not (marked(image, None)[0].argmax(1) > 0).any(), "grey: nobody knows"
