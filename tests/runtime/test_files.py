"""Files written atomically: all or nothing, and nothing left behind."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from csr.runtime.files import replaced_file, replaced_path, write_atomic, write_json


class FullDisk(OSError):
    """The error of a write to a full disk."""


def fail(file: object) -> None:
    file.write(b"half")  # type: ignore[attr-defined]
    raise FullDisk(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, lambda file: file.write(b"old"))
    write_atomic(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(FullDisk):
        write_atomic(path, fail)
    assert (path.read_bytes() if path.exists() else None) == old
    assert names(tmp_path) == ([] if old is None else ["file"])


def test_readers_see_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replaced_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("hidden", [True, False])
def test_the_private_name_is_beside_the_file_and_as_asked(tmp_path, hidden):
    with replaced_path(tmp_path / "a.onnx", hidden=hidden, suffix=".tmp.onnx") as private:
        assert private.parent == tmp_path and private.name.endswith(".tmp.onnx")
        assert private.name.startswith(".a.onnx." if hidden else "a.onnx.")
        private.write_bytes(b"")
    assert names(tmp_path) == ["a.onnx"]


def test_two_writers_of_one_file_do_not_share_a_private_name(tmp_path):
    with replaced_path(tmp_path / "file") as first, replaced_path(tmp_path / "file") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "file").read_text() == "1", "the last rename wins"


def test_a_link_to_the_same_file_leaves_no_private_name(tmp_path):
    path = tmp_path / "file"
    path.write_text("1")
    with replaced_path(path) as private:
        os.link(path, private)
    assert path.read_text() == "1" and names(tmp_path) == ["file"]


def test_json_is_indented_ends_its_line_and_has_no_nan(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"b": 1, "a": [None, 0.5]})
    assert json.loads(path.read_text()) == {"b": 1, "a": [None, 0.5]}
    assert path.read_text().startswith('{\n  "b"') and path.read_text().endswith("}\n")
    with pytest.raises(ValueError):
        write_json(path, {"b": math.nan})
    assert json.loads(path.read_text())["b"] == 1


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError):
        write_atomic(tmp_path / "nowhere" / "file", lambda file: file.write(b""))
    assert os.listdir(tmp_path) == []
