"""The lookup of image files by id, never out of the folder."""

import os

import pytest

from csr.data.images.find import find_image, find_images, find_present
from csr.runtime.errors import InputError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "c", "d.dicom", "1.2.840.dcm", "sub/e.jpeg", "t.png", "t.dcm"):
        (folder / name).write_bytes(b"x")
    (folder / "e").mkdir()
    (folder / "e.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    "image_id, name",
    [
        ("a", "a.png"),
        ("a.png", "a.png"),
        ("b", "b.JPG"),
        ("c", "c"),
        ("d", "d.dicom"),
        ("1.2.840", "1.2.840.dcm"),
        ("sub/e", "sub/e.jpeg"),
        ("./sub//e", "sub/e.jpeg"),
        ("t.dcm", "t.dcm"),
        ("e", "e.png"),
    ],
)
def test_an_id_finds_its_file_with_any_suffix_or_none(folder, image_id, name):
    assert find_image(folder, image_id) == folder / name


@pytest.mark.parametrize(
    "image_id, expected",
    [
        ("zz", "no file for image_id 'zz'"),
        ("A", "no file"),
        ("sub", "no file"),
        ("t", "is 2 files.*'t.dcm'; 't.png'"),
        ("../secret", r"leaves the image folder with '\.\.'"),
        ("sub/../../secret", "leaves the image folder"),
        ("a\0", "control characters"),
        ("missing/a", "no file"),
        ("a.png/b", "no file"),
        ("x" * 256, "name of 256 bytes; file systems take 255"),
        ("\u80ba" * 86, "name of 258 bytes"),
        ("/".join(["x" * 250] * 17), "longer than 4096 bytes"),
    ],
)
def test_an_id_without_one_file_in_the_folder_is_refused(folder, image_id, expected):
    with pytest.raises(InputError, match=expected):
        find_image(folder, image_id)


def test_the_uids_of_patient_study_series_and_image_are_one_id(folder):
    uid = "1.2.840." + "9" * 55
    below = folder / uid / uid / uid
    below.mkdir(parents=True)
    (below / f"{uid}.dcm").write_bytes(b"x")
    assert find_image(folder, "/".join([uid] * 4)) == below / f"{uid}.dcm"
    (folder / ("x" * 251 + ".png")).write_bytes(b"x")
    assert find_image(folder, "x" * 251) == folder / ("x" * 251 + ".png")


def test_an_absolute_path_is_refused_even_into_the_folder(folder):
    with pytest.raises(InputError, match="absolute path"):
        find_image(folder, str(folder / "a.png"))


def test_links_may_stay_in_the_folder_but_not_leave_it(folder, tmp_path):
    (folder / "in.png").symlink_to(folder / "a.png")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "door").symlink_to(tmp_path)
    assert find_image(folder, "in") == folder / "in.png"
    with pytest.raises(InputError, match="leads out of the image folder"):
        find_image(folder, "out")
    with pytest.raises(InputError, match="leads nowhere"):
        find_image(folder, "gone")
    with pytest.raises(InputError, match="leads nowhere"):
        find_image(folder, "loop")
    with pytest.raises(InputError, match="leads out of the image folder"):
        find_image(folder, "door/secret")


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "alias").symlink_to(folder)
    assert find_image(tmp_path / "alias", "a").samefile(folder / "a.png")


def test_a_pipe_is_no_image(folder):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(InputError, match="not a regular file"):
        find_image(folder, "pipe")


def test_a_missing_folder_is_named():
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_image("nowhere", "a")


@pytest.mark.parametrize("find", [find_images, find_present])
def test_a_folder_with_none_of_the_images_is_asked_about_in_one_short_line(folder, read, find):
    table = read("image_id,M,COPD\nm1,1,0\nm2,1,0\n")
    with pytest.raises(
        InputError, match=r"none of the 2 images is in .*images \(the first: 'm1'\): wrong folder\?$"
    ):
        find(folder, table)


def test_all_rows_without_a_file_are_named_up_to_twenty(folder, read):
    rows = "".join(f"m{n},1,0\n" for n in range(30))
    table = read("image_id,M,COPD\na,1,0\n" + rows)
    with pytest.raises(InputError, match="30 image") as caught:
        find_images(folder, table)
    message = str(caught.value)
    assert "30 without a file in" in message and "line 3: 'm0'; line 4: 'm1'; " in message
    assert "line 22: 'm19'; and 10 more" in message and "\n" not in message
    assert message.count("tried .png") == 1  # and not once for each
    table = read("image_id,M,COPD\na,1,0\nsub/e,1,0\n")
    assert find_images(folder, table) == [folder / "a.png", folder / "sub" / "e.jpeg"]
