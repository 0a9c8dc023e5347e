"""Rank, world size and host of a process, from the variables of each launcher."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from csr.runtime import ranks
from csr.runtime.errors import InputError

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LOCAL_NAMES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
SRUN_NAMES = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_STEP_ID")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Remove the variables of launchers; those that a call under test sets are removed after it."""
    for name in (*NAMES, *LOCAL_NAMES, *SRUN_NAMES):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_plain_process_is_rank_0_of_1_on_a_port_that_its_store_finds():
    ranks.adopt_launcher_environment()
    assert (ranks.rank(), ranks.local_rank(), ranks.world_size()) == (0, 0, 1)
    assert ranks.is_main() and ranks.host() == socket.gethostname()
    assert ranks.os.environ["MASTER_PORT"] == "0"


def test_variables_of_a_launcher_are_kept(environment):
    given = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    for name, value in given.items():
        environment.setenv(name, value)
    ranks.adopt_launcher_environment()
    assert {name: ranks.os.environ[name] for name in NAMES} == given
    assert (ranks.rank(), ranks.local_rank(), ranks.world_size()) == (3, 1, 4) and not ranks.is_main()


def test_a_rank_of_several_without_an_address_is_refused(environment):
    environment.setenv("RANK", "0")
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="MASTER_ADDR, MASTER_PORT is not"):
        ranks.adopt_launcher_environment()


@pytest.mark.parametrize("name", LOCAL_NAMES)
def test_ranks_of_this_host_come_from_any_launcher(environment, name):
    environment.setenv("WORLD_SIZE", "8")
    assert ranks.local_world_size() == 8
    environment.setenv(name, "2(x4)" if name.startswith("SLURM") else "")
    assert ranks.local_world_size() == 8, "no number: the world size"
    environment.setenv(name, "2")
    assert ranks.local_world_size() == 2


def test_a_plain_process_in_a_job_of_several_tasks_is_alone(environment):
    environment.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert (ranks.world_size(), ranks.local_world_size()) == (1, 1)


def task_of_four(environment, step: str) -> None:
    for name, value in {"PROCID": "0", "LOCALID": "0", "NTASKS": "4", "STEP_ID": step}.items():
        environment.setenv(f"SLURM_{name}", value)


@pytest.mark.parametrize("step", ["4294967290", "4294967291", "4294967292"])
def test_the_shell_of_salloc_and_the_batch_script_are_no_ranks(environment, step):
    task_of_four(environment, step)
    ranks.adopt_launcher_environment()
    assert (ranks.rank(), ranks.world_size()) == (0, 1)


def test_a_shell_at_a_terminal_inside_a_step_is_alone(environment):
    task_of_four(environment, "0")
    leader, follower = os.openpty()
    with open(follower) as terminal:
        environment.setattr(sys, "stdin", terminal)
        ranks.adopt_launcher_environment()
    os.close(leader)
    assert (ranks.rank(), ranks.world_size()) == (0, 1)


def test_a_task_of_srun_without_a_terminal_is_one_of_four(environment):
    task_of_four(environment, "0")
    environment.setenv("MASTER_ADDR", "h")
    environment.setenv("MASTER_PORT", "1")
    with open(os.devnull) as nothing:
        environment.setattr(sys, "stdin", nothing)
        ranks.adopt_launcher_environment()
    assert (ranks.rank(), ranks.world_size()) == (0, 4)


@pytest.mark.parametrize(
    "world, local, given, expected", [(4, 2, None, "lo"), (2, 2, None, None), (4, 2, "ib0", "ib0")]
)
def test_gloo_gets_the_card_that_leads_to_the_others_where_ranks_span_hosts(
    monkeypatch, world, local, given, expected
):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", given or "")
    if given is None:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    ranks.name_card_to_gloo()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
