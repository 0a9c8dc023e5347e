"""The revision of a folder's git tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from csr.runtime.fingerprint import revision_of


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_it_is_that_of_the_tree_around_a_folder_and_says_whether_files_were_changed(tmp_path):
    (tmp_path / "scripts").mkdir()
    assert revision_of(tmp_path / "scripts") is None
    git(tmp_path, "init", "-q")
    (tmp_path / "train.sh").write_text("csr train")
    git(tmp_path, "add", "train.sh")
    assert revision_of(tmp_path) is None, "no commit yet"
    git(tmp_path, "commit", "-q", "-m", "first")
    revision = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert revision_of(tmp_path / "scripts") == revision
    (tmp_path / "train.sh").write_text("csr train --lr 1")
    assert revision_of(tmp_path) == f"{revision}-dirty"


def test_without_git_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision_of(tmp_path) is None
