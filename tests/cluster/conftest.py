"""Machines made once, as root, gone afterwards; and a stand-in for ssh that runs a host's commands here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_slurm import CannotMake as NoSlurm
from real_slurm import Slurm
from two_hosts import CannotMake, Hosts

# hosts called gone* cannot be reached
FAKE_SSH = """#!/usr/bin/env bash
host="${@: -2:1}"
case "$host" in gone*) echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255 ;; esac
echo "Welcome to $host" # as a login script does
exec bash -c "${@: -1}"
"""


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Make node1 and node2 with sshd, one slot each; launchers are started on node1."""
    pair = Hosts(tmp_path_factory.mktemp("hosts") / "state")
    try:
        pair.up()
    except CannotMake as reason:
        pytest.skip(str(reason))
    try:
        yield pair
    finally:
        pair.down()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Make a SLURM of two nodes; commands run on its login host, in a folder that all hosts see."""
    folder = tmp_path_factory.mktemp("slurm")
    cluster = Slurm(folder / "state", folder)
    try:
        cluster.up()
    except NoSlurm as reason:
        pytest.skip(str(reason))
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "ssh"
    script.write_text(FAKE_SSH)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return script
