"""The folder of an import: nothing is overwritten, RAW is only read; images are linked, copied or left."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import raw_sets
from train_command import SMALL, contents, train

from csr.cli.data import main
from csr.data.importers.boxes import Box, checked_box
from csr.runtime.errors import InputError


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_sets.vindr(tmp_path_factory.mktemp("output") / "raw", num_train=44, num_test=22)


def test_raw_is_only_read(published, bring_in):
    before = contents(published)
    for mode in ("link", "copy", "none"):
        bring_in("vindr", published, "--images", mode, out=mode)
    assert contents(published) == before


def test_images_are_linked_copied_or_left(published, bring_in, tmp_path, capsys):
    linked = bring_in("vindr", published, out="link")
    assert (linked / "train").is_symlink() and (linked / "train").resolve() == published / "train"
    copied = bring_in("vindr", published, "--images", "copy", out="copy")
    assert contents(copied / "train") == contents(published / "train")
    left = bring_in("vindr", published, "--images", "none", out="none")
    assert not (left / "train").exists()
    assert f"--train_dir {published / 'train'}" in capsys.readouterr().out


def test_what_is_there_is_not_written_over(published, bring_in, tmp_path):
    out = bring_in("vindr", published)
    (out / "notes.txt").write_text("keep")
    before = contents(out)
    with pytest.raises(InputError, match="not empty"):
        bring_in("vindr", published)
    assert contents(out) == before
    bring_in("vindr", published, "--overwrite")
    assert contents(out) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        bring_in("vindr", published, out="file")


def test_copying_over_a_link_of_an_earlier_import_does_not_write_through_it(published, bring_in):
    out, before = bring_in("vindr", published), contents(published)
    bring_in("vindr", published, "--overwrite", "--images", "copy")
    assert not (out / "train").is_symlink() and contents(published) == before
    with pytest.raises(InputError, match="folder of copied images"):
        bring_in("vindr", published, "--overwrite", "--images", "link")


def test_a_link_of_an_earlier_import_goes_where_no_new_one_takes_its_place(published, bring_in):
    out = bring_in("vindr", published)
    (out / "own").symlink_to(published)
    bring_in("vindr", published, "--overwrite", "--images", "none")
    assert sorted(path.name for path in out.iterdir() if path.is_symlink()) == ["own"]


def test_an_interrupted_copy_resumes_and_copies_only_what_is_missing(published, bring_in):
    out = bring_in("vindr", published, "--images", "copy")
    first, second, *_ = sorted((out / "train").iterdir())
    first.unlink()
    kept = second.stat().st_ino
    bring_in("vindr", published, "--images", "copy", "--overwrite")
    assert first.is_file() and second.stat().st_ino == kept


def test_out_inside_raw_is_refused(published):
    for out in (published, published / "train" / "out"):
        with pytest.raises(InputError, match="lies in"):
            main(["vindr", str(published), str(out), "--overwrite"])


def test_a_full_disk_is_reported_before_anything_is_copied(published, bring_in, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(InputError, match="give --images link or none"):
        bring_in("vindr", published, "--images", "copy")
    assert not (tmp_path / "out" / "labels_train.csv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights_is_one_line(published, bring_in, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written"):
        bring_in("vindr", published, out="shut/out")


def test_the_origin_of_the_data_is_written_beside_the_tables(published, bring_in):
    origin = json.loads((bring_in("vindr", published) / "csr_dataset.json").read_text())
    assert origin["dataset"] == "VinDr-CXR 1.0.0" and origin["format"] == "csr-dataset"
    assert origin["source"].startswith("https://") and str(published) not in str(origin)


def test_boxes_are_cut_at_the_edge_up_to_a_pixel():
    assert checked_box((-0.5, "0", 10, 20.75), location="x", size=(30, 20)) == Box(0, 0, 10, 20)
    assert checked_box((-0.5, 0, 10, 99), location="x") == Box(0, 0, 10, 99)
    with pytest.raises(InputError, match="x: box .* leaves its image of 30 x 20"):
        checked_box((0, 0, 10, 21.5), location="x", size=(30, 20))


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", ["vindr", "tbx11k", "isic2017"])
def test_what_was_imported_trains(bring_in, tmp_path, name):
    """The printed command, with a small network, on real DICOM, PNG and JPEG files."""
    raw = {
        "vindr": lambda folder: raw_sets.vindr(folder, num_train=44, num_test=22),
        "tbx11k": raw_sets.tbx11k,
        "isic2017": lambda folder: raw_sets.isic2017(folder, counts=(24, 2, 12)),
    }[name](tmp_path / "raw")
    out = bring_in(name, raw)
    images = ("images", "images") if name == "tbx11k" else ("train", "test")
    targets = {
        "vindr": [],
        "tbx11k": ["--target_cols", "healthy", "sick but not TB", "active TB", "latent TB"],
        "isic2017": ["--target_cols", "melanoma", "seborrheic_keratosis", "nevus"],
    }[name]
    small = [word for flag, value in SMALL.items() for word in (f"--{flag}", value)]
    done = train(
        "--recipe",
        "paper",
        *small,
        "--no_pretrained",
        "--dry_run",
        *targets,
        "--output_dir",
        str(tmp_path / "runs"),
        "--train_csv",
        str(out / "labels_train.csv"),
        "--train_dir",
        str(out / images[0]),
        "--test_csv",
        str(out / "labels_test.csv"),
        "--test_dir",
        str(out / images[1]),
        "--boxes_csv",
        str(out / "boxes_train.csv"),
        "--num_prototypes",
        "3",
    )
    assert done.returncode == 0, done.stderr
    assert "Dry run done" in done.stdout and "Recipe: paper" in done.stdout
    loss = "bce" if name == "tbx11k" else "ce"  # exactly one target in every image of the two others
    assert f"Task loss: {loss}" in done.stdout
