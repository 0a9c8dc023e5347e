"""The reader of image files: pixels as a viewer shows them, or one clear line."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from csr.data.images.decode import decode_image, read_image
from csr.runtime.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (13, 11), dtype=np.uint8)
RGB = RNG.integers(0, 256, (13, 11, 3), dtype=np.uint8)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes an image (or a list of frames) and returns its path."""

    def write(image, name="a.png", **options):
        path = tmp_path / name
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        picture.save(path, **options)
        return path

    return write


def png_bytes(width, height, *, bits, colour, rows, extra=b""):
    """Return a PNG of a kind that Pillow cannot write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_grey_and_rgb_files_come_back_as_they_were_written(save):
    np.testing.assert_array_equal(read_image(save(GREY)), GREY)
    np.testing.assert_array_equal(read_image(save(RGB)), RGB)


def test_every_16_bit_value_is_rounded_to_the_nearest_of_256_levels(save):
    value = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    wanted = np.floor(value / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(read_image(save(value)), wanted)
    np.testing.assert_array_equal(read_image(save(value, "a.tiff")), wanted)


def test_16_bit_rgb_is_shown_like_its_8_bit_twin(tmp_path):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RGB.astype(np.uint16) * 257)
    (tmp_path / "a.png").write_bytes(png_bytes(11, 13, bits=16, colour=2, rows=rows))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_reaches_from_black_to_white(tmp_path, bits):
    levels = 2**bits
    row = sum((n % levels) << (8 - bits * (n + 1)) for n in range(8 // bits))
    (tmp_path / "a.png").write_bytes(png_bytes(8 // bits, 1, bits=bits, colour=0, rows=bytes([0, row])))
    wanted = [round((n % levels) * 255 / (levels - 1)) for n in range(8 // bits)]
    assert read_image(tmp_path / "a.png").tolist() == [wanted]


def test_transparency_is_put_on_black(save):
    alpha = RNG.integers(0, 256, (13, 11), dtype=np.uint8)
    rgba = read_image(save(np.dstack([RGB, alpha])))
    np.testing.assert_allclose(rgba, RGB * (alpha[:, :, None] / 255), atol=1)
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    grey = read_image(save(la))
    assert grey.ndim == 2
    np.testing.assert_allclose(grey, GREY * (alpha / 255), atol=1)


def test_a_transparent_colour_becomes_black(save):
    value = np.array([[5, 6]], dtype=np.uint8)
    assert read_image(save(value, transparency=5)).tolist() == [[0, 6]]
    wide = value.astype(np.uint16) * 257
    assert read_image(save(wide, transparency=5 * 257)).tolist() == [[0, 6]]


def test_palettes_show_their_colours(save):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 1, 2, 3])
    assert read_image(save(image)).tolist() == [[[255, 0, 0], [0, 255, 0], [1, 2, 3]]]
    half = read_image(save(image, transparency=bytes([255, 0, 255])))
    assert half.tolist() == [[[255, 0, 0], [0, 0, 0], [1, 2, 3]]]


def test_cmyk_becomes_rgb_and_not_its_negative(save):
    paper = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert (read_image(save(paper, "a.jpg")) >= 253).all()
    np.testing.assert_allclose(read_image(save(ink, "a.jpg"))[0, 0], [255, 0, 0], atol=3)


def test_bilevel_is_black_and_white(save):
    assert read_image(save(Image.fromarray(GREY > 128))).tolist() == (255 * (GREY > 128)).tolist()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_exif_orientation_is_applied(save, turn, name):
    # A white corner, dark elsewhere; EXIF gives the side of the first row and column.
    image = np.zeros((16, 32), dtype=np.uint8)
    image[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    shown = decode_image(save(image, name, exif=exif, **({"quality": 95} if "jpg" in name else {})))
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1)}
    row, column = corner.get(turn, (-1, 0))
    assert shown.pixels.shape == ((16, 32) if turn < 5 else (32, 16))
    assert (shown.height, shown.width) == shown.pixels.shape
    assert shown.pixels[row, column] > 240
    assert shown.pixels.mean() == pytest.approx(255 / 8, abs=3)


def test_a_jpeg_may_be_decoded_small_and_still_has_its_size(save):
    ramp = np.tile(np.linspace(0, 255, 256).astype(np.uint8), (128, 1))
    path = save(ramp, "a.jpg", quality=95)
    small = decode_image(path, min_size=16)
    assert small.pixels.shape == (16, 32) and (small.height, small.width) == (128, 256)
    np.testing.assert_allclose(small.pixels, ramp.reshape(16, 8, 32, 8).mean((1, 3)), atol=3)
    assert decode_image(path, min_size=100).pixels.shape == (128, 256)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(save(ramp, "b.jpg", exif=exif), min_size=16)
    assert turned.pixels.shape == (32, 16) and (turned.height, turned.width) == (256, 128)


@pytest.mark.parametrize("shape", [(1, 1), (1, 60000), (60000, 1)])
def test_odd_shapes_decode(save, shape):
    assert (read_image(save(np.full(shape, 7, dtype=np.uint8))) == 7).all()


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP", "TIFF", "GIF"])
def test_the_content_counts_and_not_the_suffix(save, kind):
    flat = np.full((8, 8), 100, dtype=np.uint8)
    np.testing.assert_allclose(read_image(save(flat, "a.png", format=kind)), 100, atol=2)


def bad_files():
    good = png_bytes(4, 4, bits=8, colour=0, rows=bytes([0, 7, 250, 3, 91] * 4))
    return [
        ("empty", b"", "the file is empty"),
        ("text", b"hello", "no image that can be read"),
        ("noise", bytes(range(256)) * 4, "no image that can be read"),
        ("truncated", good[:-24], "damaged"),
        ("headless", good[:20], "no image|damaged"),
        ("flipped", good[:45] + b"\xff\xff" + good[47:], "damaged"),
        ("bomb", png_bytes(60000, 60000, bits=8, colour=0, rows=b""), "far too many pixels"),
        ("large", png_bytes(9000, 9000, bits=8, colour=0, rows=b""), "9000 x 9000 pixels"),
        ("script", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        ("dicom", b"\0" * 128 + b"DICM", "damaged|no pixel data"),
        ("dicom-noise", b"\0" * 128 + b"DICM" + bytes(range(256)), "damaged|no pixel data"),
    ]


@pytest.mark.parametrize("name, content, expected", bad_files(), ids=[name for name, *_ in bad_files()])
def test_a_bad_file_gets_one_line_with_its_name(tmp_path, name, content, expected):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        read_image(tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_truncated_jpeg_is_refused(save, keep):
    path = save(np.tile(GREY, (4, 4)), "a.jpg")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(InputError, match="damaged|no image"):
        read_image(path)


@pytest.mark.parametrize("kind", ["gif", "png", "tiff", "webp"])
def test_several_frames_are_refused(save, kind):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = save(frames[0], f"a.{kind}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="several frames"):
        read_image(path)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_display_range_are_refused_under_any_suffix(save, kind):
    path = save(GREY.astype(kind), "a.png", format="TIFF")
    with pytest.raises(InputError, match="floating-point or 32-bit"):
        read_image(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="not a regular file"):
        read_image(tmp_path)
