"""Missing images: the file that was meant is named, and how to write its id."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from csr.data.images.decode import read_image
from csr.data.images.find import find_image
from csr.runtime.errors import InputError


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path, format="PNG")
    return path


@pytest.mark.parametrize(
    ("file", "image_id", "message"),
    [
        ("a0.png", "a0.dicom", "'a0.png' is there; write image_id without a suffix"),
        ("a1.png", "A1", "'a1.png' is there, upper and lower case differ"),
        ("a3.tif", "a3", "'a3.tif' is there; write image_id with its suffix"),
        ("a4.JP2", "a4", "'a4.JP2' is there; write image_id with its suffix"),
        ("00123.png", "123", "'00123.png' is there; a spreadsheet changed the number, import ids as text"),
        ("20240105.png", "20240105.0", "'20240105.png' is there; a spreadsheet changed the number"),
        ("1e5.png", "100000", "'1e5.png' is there; a spreadsheet changed the number"),
        ("123456789012345678.png", "1.23457E+17", "a spreadsheet has rounded this number"),
        ("images_001/images/b_000.png", "b_000.png", "write image_id 'images_001/images/b_000'"),
    ],
)
def test_the_file_that_was_meant_is_named(tmp_path, file, image_id, message):
    image(tmp_path / file)
    with pytest.raises(InputError) as caught:
        find_image(tmp_path, image_id)
    assert message in str(caught.value)


def test_nothing_is_said_where_nothing_is_near(tmp_path):
    image(tmp_path / "a0.png")
    with pytest.raises(InputError) as caught:
        find_image(tmp_path, "b7")
    assert str(caught.value).endswith("and none)")


def test_the_case_of_a_written_suffix_does_not_matter(tmp_path):
    there = image(tmp_path / "a2.png")
    assert find_image(tmp_path, "a2.PNG") == there


def test_a_link_to_a_folder_elsewhere_is_not_looked_through(tmp_path):
    image(tmp_path / "elsewhere" / "b7.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError) as caught:
        find_image(tmp_path / "images", "b7")
    assert str(caught.value).endswith("and none)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>401 Unauthorized</html>", "is a web page"),
        (b"\xef\xbb\xbf\n<HTML><body>503</body></HTML>", "is a web page"),
        (
            b"<?xml version='1.0'?>\n<!-- login -->\n<!DOCTYPE html PUBLIC '-//W3C//DTD XHTML'>",
            "is a web page",
        ),
    ],
)
def test_what_a_clone_or_download_left_instead_of_an_image_is_named(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "a.png")


def test_long_numbers_are_compared_exactly(tmp_path):
    image(tmp_path / "123456789012345678.png")
    with pytest.raises(InputError) as caught:
        find_image(tmp_path, "123456789012345679")
    assert str(caught.value).endswith("and none)")
