"""Output paths: a command writes to new places, and replaces what is there only when it is asked to."""

from __future__ import annotations

import os

import pytest

from csr.runtime.errors import InputError
from csr.runtime.output_paths import check_output_file, check_output_folder


@pytest.fixture
def filled(tmp_path):
    """Return a folder with one file, report.html."""
    folder = tmp_path / "filled"
    folder.mkdir()
    (folder / "report.html").write_text("old")
    return folder


def check_folder(folder, *, overwrite=False, **more):
    check_output_folder(folder, overwrite=overwrite, content="a report", **more)


def check_file(path, *, overwrite=False, suffixes=(".csv", ".jsonl")):
    check_output_file(path, overwrite=overwrite, suffixes=suffixes)


def test_new_and_empty_folders_are_taken_and_none_is_made(tmp_path):
    check_folder(tmp_path / "new" / "below")
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_filled_folder_is_replaced_on_request_alone(filled):
    with pytest.raises(InputError, match="--out .*filled: is not empty: .* --overwrite to replace a report$"):
        check_folder(filled)
    check_folder(filled, overwrite=True)
    assert (filled / "report.html").read_text() == "old"


def test_a_folder_without_a_mark_of_the_command_is_never_replaced(filled):
    check_folder(filled, overwrite=True, marks=("other.json", "report.html"))
    with pytest.raises(InputError, match="holds other files than a report: give another folder"):
        check_folder(filled, overwrite=True, marks=("other.json",))


@pytest.mark.parametrize(
    "place, message",
    [
        ("report.html", "is a file: give a folder"),
        ("report.html/below", "report.html is no folder: give another one"),
        ("x" * 300, "File name too long: give another folder"),
    ],
)
def test_a_place_that_can_be_no_folder_is_refused(filled, place, message):
    with pytest.raises(InputError, match=message):
        check_folder(filled / place, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="locked cannot be written to: give another folder"):
        check_folder(tmp_path / "locked" / "new")


def test_a_positional_folder_is_named_without_a_flag(filled):
    with pytest.raises(InputError) as caught:
        check_folder(filled, flag="")
    assert str(caught.value).startswith(f"{filled}: is not empty")


def test_a_file_is_replaced_on_request_alone(tmp_path):
    path = tmp_path / "out.CSV"
    check_file(path)
    path.write_text("old")
    with pytest.raises(InputError, match="out.CSV: exists: give another file, or --overwrite to replace it"):
        check_file(path)
    check_file(path, overwrite=True)
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    "name, message",
    [
        ("out.txt", r"end the name with \.csv or \.jsonl"),
        ("folder.csv", "is a folder: give a file"),
        ("none/out.csv", "no folder .*none: make it, or give another file"),
    ],
)
def test_a_place_that_can_be_no_file_is_refused(tmp_path, name, message):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=message):
        check_file(tmp_path / name, overwrite=True)
