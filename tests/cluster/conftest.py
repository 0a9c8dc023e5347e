"""Machines for the tests of this folder: made once, as root, gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_slurm import CannotMake as NoSlurm
from real_slurm import Slurm
from two_hosts import CannotMake, Hosts


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """node1 and node2 with sshd, one slot each; launchers are started on node1."""
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
    """A SLURM of two nodes; commands run on its login host, in a folder that all hosts see."""
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
