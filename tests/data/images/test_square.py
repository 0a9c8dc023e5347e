"""The square of an image: frames by hand, pixels by position, and boxes that follow them."""

import numpy as np
import pytest
from bright_model import TALL, WIDE, block_box, block_image
from PIL import Image

from csr.data.images.resize import resize_file
from csr.data.images.square import (
    CROP,
    LETTERBOX,
    RESIZES,
    SQUASH,
    WHOLE,
    box_on_image,
    boxes_in_square,
    frame_of,
    frames_of,
    to_square,
)

SIDE = 72


@pytest.mark.parametrize(
    ("height", "width", "resize", "frame"),
    [
        (100, 200, SQUASH, (0, 0, 1, 1)),
        (100, 200, LETTERBOX, (0, -0.5, 1, 1.5)),  # 36 of 72 rows: half an image above and below
        (200, 100, LETTERBOX, (-0.5, 0, 1.5, 1)),
        (100, 200, CROP, (0.25, 0, 0.75, 1)),
        (300, 100, CROP, (0, 1 / 3, 1, 2 / 3)),
        (77, 77, LETTERBOX, (0, 0, 1, 1)),
        (77, 77, CROP, (0, 0, 1, 1)),
        (10, 30, LETTERBOX, (0, -1, 1, 2)),  # 24 rows between 24 and 24
        (10, 1000, LETTERBOX, (0, -35, 1, 37)),  # one row of 72, after 35
    ],
)
def test_frames_are_those_by_hand(height, width, resize, frame):
    assert frame_of(height, width, resize=resize, side=SIDE) == pytest.approx(frame, abs=1e-12)


def test_the_frame_of_a_squashed_image_moves_no_bit():
    assert frame_of(3, 7, resize=SQUASH, side=SIDE) == WHOLE
    box_R4 = np.random.default_rng(0).random((50, 4))
    np.testing.assert_array_equal(boxes_in_square(box_R4, np.asarray(WHOLE)), box_R4)


@pytest.mark.parametrize("resize", RESIZES)
def test_boxes_come_back(resize):
    rng = np.random.default_rng(1)
    size_N2 = rng.integers(1, 3000, (40, 2))
    frame_N4, box_N4 = frames_of(size_N2, resize=resize, side=SIDE), rng.random((40, 4))
    seen_N4 = boxes_in_square(box_N4, frame_N4)
    for seen, frame, box in zip(seen_N4.tolist(), frame_N4.tolist(), box_N4.tolist(), strict=True):
        assert box_on_image(seen, frame) == pytest.approx(box, abs=1e-9)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("scene", [WIDE, TALL], ids=["wide", "tall"])
def test_a_bright_block_lies_where_the_frame_says(scene, resize):
    (height, width), _ = scene
    square = to_square(block_image(scene), height=height, width=width, resize=resize, side=SIDE)
    ys, xs = np.nonzero(square > 140)  # half-way between dark and bright
    found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / SIDE
    frame = np.asarray(frame_of(height, width, resize=resize, side=SIDE))
    expected = boxes_in_square(np.array([block_box(scene)]), frame)[0]
    np.testing.assert_allclose(found, expected, atol=0.6 / SIDE)
    sides = found[2:] - found[:2]
    is_square = abs(sides[0] - sides[1]) < 1.5 / SIDE  # the block is as wide as high
    assert is_square == (resize != SQUASH)


def test_a_letterbox_is_black_beside_the_whole_image():
    pixels = np.full((50, 100, 3), (10, 200, 90), dtype=np.uint8)
    square = to_square(pixels, height=50, width=100, resize=LETTERBOX, side=SIDE)
    assert (square[:18] == 0).all() and (square[54:] == 0).all()
    assert (square[18:54] == (10, 200, 90)).all()


def test_a_crop_is_the_central_square_of_the_pixels():
    pixels = np.random.default_rng(2).integers(0, 256, (64, 164), dtype=np.uint8)
    square = to_square(pixels, height=64, width=164, resize=CROP, side=64)
    np.testing.assert_array_equal(square, pixels[:, 50:114])


def test_squash_is_what_it_was_before_there_was_another_way(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (90, 140), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_file(tmp_path / "a.png", SIDE).pixels_CSS[0], expected)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("resize", RESIZES)
def test_extreme_sides_give_a_square_without_much_memory(size, resize):
    square = to_square(np.full(size, 77, np.uint8), height=size[0], width=size[1], resize=resize, side=9)
    assert square.shape == (9, 9) and square.max() == 77


@pytest.mark.parametrize("resize", [LETTERBOX, CROP])
def test_a_turned_photograph_is_framed_as_it_is_displayed(tmp_path, resize):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, to the right
    shown = block_image(TALL)
    Image.fromarray(np.rot90(shown).copy()).save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(shown).save(tmp_path / "b.png")
    turned, plain = (resize_file(tmp_path / name, SIDE, resize=resize) for name in ("a.jpg", "b.png"))
    assert (turned.height, turned.width, turned.frame) == (plain.height, plain.width, plain.frame)
    assert abs(turned.pixels_CSS.astype(int) - plain.pixels_CSS).mean() < 3


@pytest.mark.parametrize("resize", RESIZES)
def test_a_reduced_jpeg_is_framed_as_the_original(tmp_path, resize):
    large = np.kron(block_image(WIDE), np.ones((9, 9), np.uint8))[:-5, :-3]  # sides that 8 does not divide
    Image.fromarray(large).save(tmp_path / "a.jpg", quality=98)
    Image.fromarray(large).save(tmp_path / "a.png")
    reduced, whole = (resize_file(tmp_path / f"a.{kind}", 24, resize=resize) for kind in ("jpg", "png"))
    assert (reduced.height, reduced.width, reduced.frame) == (*large.shape, whole.frame)
    assert abs(reduced.pixels_CSS.astype(int) - whole.pixels_CSS).mean() < 3
