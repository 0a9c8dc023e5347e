"""A stand-in for ssh: the command that a host was to run is run here; hosts called gone* cannot be reached."""

from __future__ import annotations

from pathlib import Path

import pytest

FAKE_SSH = """#!/usr/bin/env bash
host="${@: -2:1}"
case "$host" in gone*) echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255 ;; esac
echo "Welcome to $host" # as a login script does
exec bash -c "${@: -1}"
"""


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "ssh"
    script.write_text(FAKE_SSH)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return script
