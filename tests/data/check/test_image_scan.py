"""Kinds, sizes and hashes of a scan are those of the files."""

from __future__ import annotations

import hashlib

import pytest
from PIL import Image

from csr.data.check.image_scan import kind_of, scan
from csr.runtime.errors import InputError


@pytest.mark.parametrize(
    "image, kind",
    [
        (Image.new("L", (9, 5)), "PNG 8-bit grey"),
        (Image.new("RGB", (9, 5)), "PNG 8-bit RGB"),
        (Image.new("1", (9, 5)), "PNG 1-bit grey"),
        (Image.new("P", (9, 5)), "PNG 8-bit palette"),
        (Image.new("I;16", (9, 5)), "PNG 16-bit grey"),
        (Image.new("RGBA", (9, 5)), "PNG 8-bit RGBA"),
    ],
)
def test_kinds_name_format_depth_and_colour(tmp_path, image, kind):
    image.save(tmp_path / "a.png")
    assert kind_of(tmp_path / "a.png") == kind


def test_a_scan_has_hash_and_size_or_why_a_file_cannot_be_read(tmp_path):
    Image.new("L", (30, 20), 7).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    good, bad = scan([tmp_path / "a.png", tmp_path / "b.png"], workers=2, title="x")
    assert good.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert (good.width, good.height) == (30, 20) and isinstance(bad, InputError) and "b.png" in str(bad)
