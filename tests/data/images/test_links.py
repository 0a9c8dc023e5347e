"""Links in an image folder: followed into named folders alone, otherwise one line for all of them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from csr.cli.data import main as data
from csr.data.images.decode import read_image
from csr.data.images.find import find_image, find_images, find_present
from csr.runtime.errors import InputError

ROWS = "image_id,M,COPD\n" + "".join(f"i{n},{n % 2},1\n" for n in range(6))


@pytest.fixture
def folder(tmp_path):
    """Six images: four of them links into a cache, as DVC makes them, without suffixes; two are files."""
    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    for n in range(6):
        Image.fromarray(np.full((8, 8), 40 * n, np.uint8)).save(folder / f"i{n}.png")
        if n > 1:
            target = cache / f"a{n % 2}" / f"{n:032x}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / f"i{n}.png").rename(target)
            (folder / f"i{n}.png").symlink_to(target)
    return folder


@pytest.mark.parametrize("find", [find_images, find_present])
def test_all_links_that_leave_are_one_line_with_the_ways_out(folder, read, find):
    with pytest.raises(InputError) as caught:
        find(folder, read(ROWS))
    line, cache = str(caught.value), folder.parent / "cache"
    assert "4 of 6 images" in line and line.count("->") == 1
    assert f"line 4: '{folder / 'i2.png'}' -> '{cache / 'a0'}" in line
    assert f"--links_into {cache}," in line and f"cp -rlL {folder}" in line and "may be a link" in line


def test_links_into_a_named_folder_are_followed_and_read_by_their_content(folder, read):
    cache = str(folder.parent / "cache")
    paths = find_images(folder, read(ROWS), links_into=[cache])
    assert paths == [folder / f"i{n}.png" for n in range(6)]
    assert [int(read_image(path)[0, 0]) for path in paths] == [0, 40, 80, 120, 160, 200]
    assert find_present(folder, read(ROWS), links_into=[cache]) == (dict(enumerate(paths)), {})


def test_a_named_folder_allows_no_other_one_and_no_way_round_by_ids(folder, read, tmp_path):
    cache = tmp_path / "cache"
    for other in (cache / "a0", tmp_path / "cach"):
        other.mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"[24] of 6 images are behind links"):
            find_images(folder, read(ROWS), links_into=[str(other)])
    target = f"../cache/a0/{2:032x}"
    for image_id in (target, str((folder / target).resolve())):
        with pytest.raises(InputError, match=r"leaves the image folder with|absolute path"):
            find_image(folder, image_id, links_into=[str(cache)])


def test_a_link_that_goes_on_counts_by_its_end(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes((folder / "i0.png").read_bytes())
    (tmp_path / "cache" / "hop").symlink_to(tmp_path / "secret.png")
    (folder / "hop.png").symlink_to(tmp_path / "cache" / "hop")
    with pytest.raises(InputError, match="secret.png"):
        find_image(folder, "hop", links_into=[str(tmp_path / "cache")])


@pytest.mark.parametrize("find", [find_images, find_present])
def test_a_linked_sub_folder_is_the_same_line_and_neither_wrong_nor_missing(folder, read, tmp_path, find):
    shutil.copytree(folder, tmp_path / "elsewhere" / "b")
    (folder / "batch").symlink_to(tmp_path / "elsewhere" / "b")
    table = read("image_id,M,COPD\nbatch/i0,1,0\nbatch/i1,0,1\n")
    with pytest.raises(
        InputError, match=r"2 of 2 images .*line 2: .*batch' -> .*elsewhere/b'\); give --links_into"
    ):
        find(folder, table)
    found = find(folder, table, links_into=[str(tmp_path / "elsewhere")])
    assert (found if find is find_images else list(found[0].values())) == [
        folder / "batch" / "i0.png",
        folder / "batch" / "i1.png",
    ]


def test_a_folder_that_is_not_there_is_named_with_its_flag(folder, read):
    with pytest.raises(InputError, match="--links_into nowhere: no such folder"):
        find_images(folder, read(ROWS), links_into=["nowhere"])


def test_data_check_takes_the_flag(folder, tmp_path, capsys):
    rows = [f"{'sub/' if n > 5 else ''}i{n % 6},{n % 2},{n // 2 % 2}\n" for n in range(12)]
    (tmp_path / "labels.csv").write_text("image_id,M,COPD\n" + "".join(rows))
    (folder / "sub").symlink_to(tmp_path / "more")
    (tmp_path / "more").mkdir()
    for n in range(6):
        noise = np.random.default_rng(n).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "more" / f"i{n}.png")
    args = ["check", str(tmp_path / "labels.csv"), str(folder)]
    assert data(args) == 2 and "10 of 12 images are behind links" in capsys.readouterr().out
    data([*args, "--links_into", str(tmp_path / "cache"), str(tmp_path / "more")])
    assert "behind links" not in capsys.readouterr().out
