"""Checkpoints are whole or absent, checked before use; damaged ones are named and passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from csr.runtime.errors import InputError
from csr.training.checkpoints import checkpoint_folder
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with the last two of three checkpoints, each with its best model."""
    store = CheckpointFolder(tmp_path, keep=2, identity={"options": {}})
    for number in range(3):
        written = checkpoint_folder.save_tensors(tmp_path / "best.pth", torch.full((50,), float(number)))
        store.write(
            {"number": number, "w": torch.ones(9)}, place={"step": number}, best={"best.pth": written}
        )
    return tmp_path / "checkpoints"


def test_the_last_ones_are_kept_and_the_pointer_names_the_newest(three):
    assert sorted(p.name for p in three.iterdir()) == [
        "checkpoint-000002",
        "checkpoint-000003",
        "latest.json",
    ]
    path, manifest = checkpoint_folder.newest(three, pytest.fail)
    assert (path.name, manifest["step"]) == ("checkpoint-000003", 2)
    assert json.loads((three / "latest.json").read_text()) == {"checkpoint": path.name}
    best = torch.load(three / "checkpoint-000002" / "best.pth", weights_only=True)
    assert best[0] == 1.0, "each keeps the best model of its own time"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["state.pth", "best.pth", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(three, name, damage):
    newest = three / "checkpoint-000003"
    damage(newest / name)
    lines: list[str] = []
    path, manifest = checkpoint_folder.newest(three, lines.append)
    assert (path.name, manifest["step"]) == ("checkpoint-000002", 1)
    assert len(lines) == 1 and str(newest) in lines[0] and name in lines[0]
    with pytest.raises(InputError, match="checkpoint-000003: damaged"):
        checkpoint_folder.named_by_user(newest, lines.append)


@pytest.mark.parametrize("pointer", [None, "", "{", '{"checkpoint": "checkpoint-000009"}', "[1]"])
def test_without_a_pointer_that_holds_the_newest_whole_one_is_used(three, pointer):
    (three / "latest.json").unlink()
    if pointer is not None:
        (three / "latest.json").write_text(pointer)
    assert checkpoint_folder.newest(three, pytest.fail)[0].name == "checkpoint-000003"


def test_where_all_are_damaged_the_run_does_not_begin_anew_unasked(three):
    for checkpoint in checkpoint_folder.all_of(three):
        truncate(checkpoint / "state.pth")
    with pytest.raises(InputError, match="--overwrite"):
        checkpoint_folder.newest(three, lambda line: None)


def test_a_write_that_fails_leaves_the_ones_before_and_no_rest(three, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_folder, "save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        CheckpointFolder(three.parent, keep=2, identity={}).write({}, place={}, best={})
    assert sorted(p.name for p in three.iterdir()) == [
        "checkpoint-000002",
        "checkpoint-000003",
        "latest.json",
    ]


def test_a_manifest_cannot_name_files_elsewhere(three):
    manifest = json.loads((three / "checkpoint-000003" / "manifest.json").read_text())
    del manifest["sha256"], manifest["format"]
    manifest["files"]["../../best.pth"] = manifest["files"]["best.pth"]
    (three / "checkpoint-000003" / "manifest.json").write_text(
        json.dumps(checkpoint_folder._signed(manifest))
    )
    assert checkpoint_folder.newest(three, lambda line: None)[0].name == "checkpoint-000002"


@pytest.mark.parametrize("given", ["checkpoint-000002", ".", "..", "latest.json"])
def test_resume_path_may_be_a_checkpoint_or_a_folder_of_them(three, given):
    expected = "checkpoint-000002" if given == "checkpoint-000002" else "checkpoint-000003"
    assert checkpoint_folder.named_by_user(three / given, pytest.fail)[0].name == expected
