"""PNG files with long texts and profiles show their pixels, and a text that inflates far is not inflated."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import numpy as np
import pytest
from hostile_pictures import GREY, chunk, saved
from PIL import Image, PngImagePlugin

from csr.data.check.image_scan import kind_of
from csr.data.images.decode import read_image
from csr.data.images.png_texts import picture_source

LONG = b"v" * 3_000_000
BEFORE = saved(GREY, "PNG")
HEAD_END, LAST = 33, 12  # behind IHDR; IEND


def with_chunks(*chunks: bytes, behind: bool = False) -> bytes:
    at = len(BEFORE) - LAST if behind else HEAD_END
    return BEFORE[:at] + b"".join(chunks) + BEFORE[at:]


def exif_of_a_turn() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


CHUNKS = {
    "zTXt": chunk(b"zTXt", b"k\0\0" + zlib.compress(LONG)),
    "iTXt": chunk(b"iTXt", b"k\0\x01\0\0\0" + zlib.compress(LONG)),
    "iTXt with a language": chunk(b"iTXt", b"k\0\x01\0de\0Wort\0" + zlib.compress(LONG)),
    "iTXt, not compressed": chunk(b"iTXt", b"k\0\0\0\0\0" + LONG),
    "iCCP": chunk(b"iCCP", b"p\0\0" + zlib.compress(LONG)),
    "iCCP that hardly shrinks": chunk(b"iCCP", b"p\0\0" + zlib.compress(os.urandom(2_000_000))),
    "tEXt": chunk(b"tEXt", b"k\0" + LONG),
    "a hundred of 1 MB": chunk(b"zTXt", b"k\0\0" + zlib.compress(b"v" * 2**20)) * 100,
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
def test_a_long_text_does_not_hide_the_picture(tmp_path, name, behind):
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(CHUNKS[name], behind=behind))
    np.testing.assert_array_equal(read_image(path), GREY)
    assert kind_of(path) == "PNG 8-bit grey"


def test_files_of_pillow_are_read(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("k", "x" * 2_000_000, zip=True)
    Image.fromarray(GREY).save(tmp_path / "t.png", pnginfo=info)
    Image.fromarray(GREY).save(tmp_path / "i.png", icc_profile=os.urandom(50) * 40_000)
    for name in ("t.png", "i.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name), GREY)


def test_short_texts_stay_and_so_does_the_orientation(tmp_path):
    path = tmp_path / "a.png"
    exif = exif_of_a_turn()
    profile = b"\nexif\n%8d\n" % len(exif) + exif.hex().encode()
    turn = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    path.write_bytes(with_chunks(CHUNKS["zTXt"], turn))
    np.testing.assert_array_equal(read_image(path), np.rot90(GREY, -1))  # EXIF 6: turned to the right


def test_other_files_are_opened_as_they_are(tmp_path):
    for name, content in {"a.png": BEFORE, "b.jpg": saved(GREY, "JPEG"), "c": b"", "d": BEFORE[:40]}.items():
        (tmp_path / name).write_bytes(content)
        assert picture_source(tmp_path / name) == tmp_path / name
    (tmp_path / "a.png").write_bytes(with_chunks(CHUNKS["zTXt"]))
    assert picture_source(tmp_path / "a.png").getvalue() == BEFORE


def test_a_text_of_gigabytes_is_not_inflated(tmp_path):
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**24)) for _ in range(32)) + packer.flush()  # 512 MiB in 0.5
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(chunk(b"zTXt", b"k\0\0" + packed), chunk(b"iCCP", b"p\0\0" + packed)))
    tracemalloc.start()
    np.testing.assert_array_equal(read_image(path), GREY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23
