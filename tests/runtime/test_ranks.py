"""Rank, world size and host of a process, from the variables of each launcher."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from csr.runtime import ranks
from csr.runtime.errors import InputError

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LOCAL_NAMES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
NODE_NAMES = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID")
SRUN_NAMES = (
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "SLURM_STEP_ID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PTY_PORT",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Remove the variables of launchers; those that a call under test sets are removed after it."""
    for name in (*NAMES, *LOCAL_NAMES, *NODE_NAMES, *SRUN_NAMES):
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


@pytest.mark.parametrize(
    "tasks, of_nodes",
    [("4", [4]), ("4(x2)", [4, 4]), ("3,2(x3),1", [3, 2, 2, 2, 1]), ("1(x2),5", [1, 1, 5])],
)
def test_ranks_of_this_host_are_those_that_srun_started_on_its_node(environment, tasks, of_nodes):
    environment.setenv("WORLD_SIZE", str(sum(of_nodes)))
    environment.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    environment.setenv("SLURM_NTASKS_PER_NODE", "7")  # left from the job
    for node, expected in enumerate(of_nodes):
        environment.setenv("SLURM_NODEID", str(node))
        assert ranks.local_world_size() == expected
    environment.delenv("SLURM_NODEID")
    assert ranks.local_world_size() == (of_nodes[0] if len(set(of_nodes)) == 1 else 7)


@pytest.mark.parametrize(
    "tasks, node",
    [("5,3", "2"), ("5,3", ""), ("4(x3)", "0"), ("4(x", "0"), ("", "0"), ("8x", "0"), ("4(x2),", "0")],
)
def test_a_step_that_does_not_fit_the_ranks_tells_nothing_of_this_host(environment, tasks, node):
    environment.setenv("WORLD_SIZE", "8")
    environment.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    environment.setenv("SLURM_NODEID", node)
    assert ranks.local_world_size() == 8
    environment.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert ranks.local_world_size() == 4


def test_tasks_of_srun_over_two_nodes_have_a_gpu_and_a_card_each(environment):
    from csr.engine import process_group

    given = {"PROCID": "5", "LOCALID": "1", "NTASKS": "8", "STEP_ID": "0", "STEP_NUM_TASKS": "8"}
    for name, value in {**given, "STEP_TASKS_PER_NODE": "4(x2)", "NODEID": "1"}.items():
        environment.setenv(f"SLURM_{name}", value)
    environment.setenv("MASTER_ADDR", "127.0.0.1")
    environment.setenv("MASTER_PORT", "29500")
    environment.setenv("GLOO_SOCKET_IFNAME", "")
    environment.delenv("GLOO_SOCKET_IFNAME")
    environment.setattr(ranks, "card_towards", lambda address: f"card to {address}")
    ranks.adopt_launcher_environment()
    assert (ranks.local_rank(), ranks.world_size(), ranks.local_world_size()) == (1, 8, 4)
    process_group._check_gpus(4)
    ranks.name_card_to_gloo()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "card to 127.0.0.1"


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


@pytest.fixture
def terminal(environment):
    """Let standard input be a terminal."""
    leader, follower = os.openpty()
    with open(follower) as opened:
        environment.setattr(sys, "stdin", opened)
        yield
    os.close(leader)


@pytest.fixture
def no_terminal(environment):
    with open(os.devnull) as nothing:
        environment.setattr(sys, "stdin", nothing)
        yield


def test_a_shell_at_a_terminal_of_several_tasks_is_alone_and_told_so(environment, terminal):
    task_of_four(environment, "0")
    notice = ranks.adopt_launcher_environment()
    assert (ranks.rank(), ranks.world_size()) == (0, 1)
    line = "this terminal is task 0 of 4 of SLURM step 0 (srun --pty): going on as one process, alone."
    assert line in notice
    assert ranks.adopt_launcher_environment() is None, "once"


@pytest.mark.parametrize("counts", [{"NTASKS": "1"}, {"STEP_NUM_TASKS": "1"}, {"NTASKS": None}])
def test_a_shell_at_a_terminal_of_one_task_is_alone_without_a_word(environment, terminal, counts):
    task_of_four(environment, "0")
    for name, value in counts.items():
        if value is None:
            environment.delenv(f"SLURM_{name}")
        else:
            environment.setenv(f"SLURM_{name}", value)
    environment.setenv("SLURM_PTY_PORT", "40000")
    assert ranks.adopt_launcher_environment() is None
    assert (ranks.rank(), ranks.world_size()) == (0, 1)


def test_what_srun_itself_starts_with_a_terminal_as_one_of_four_is_refused(environment, terminal):
    task_of_four(environment, "0")
    environment.setattr(ranks, "_parent", lambda: "slurmstepd: [1.0]")
    with pytest.raises(InputError, match="it would train alone; for 4 ranks use srun -n 4 without --pty"):
        ranks.adopt_launcher_environment()


def test_a_step_inside_a_shell_at_a_terminal_is_of_ranks(environment, no_terminal):
    """What srun --pty has set is handed on to steps that are started in that shell."""
    task_of_four(environment, "1")
    for name, value in {"SLURM_PTY_PORT": "40000", "MASTER_ADDR": "h", "MASTER_PORT": "1"}.items():
        environment.setenv(name, value)
    ranks.adopt_launcher_environment()
    assert ranks.world_size() == 4


def test_the_parent_of_a_process_is_known_by_its_program(tmp_path):
    starter = tmp_path / "slurmstepd"
    shutil.copy(shutil.which("bash"), starter)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from csr.runtime import ranks; print(ranks._parent())"
    )
    root = str(Path(ranks.__file__).parents[2])
    done = subprocess.run(
        [starter, "-c", '"$@"; true', "_", sys.executable, "-c", code, root], capture_output=True, text=True
    )
    assert done.stdout == "slurmstepd\n", done.stderr


@pytest.mark.parametrize("port", [None, "1"])
def test_a_task_of_four_without_an_address_is_told_what_it_is(environment, no_terminal, port):
    task_of_four(environment, "3")
    if port:
        environment.setenv("MASTER_PORT", port)
    missing = "MASTER_ADDR is" if port else "MASTER_ADDR and MASTER_PORT are"
    with pytest.raises(
        InputError, match=f"task 0 of 4 of SLURM step 3, but {missing} not set.*unset SLURM_NTASKS"
    ):
        ranks.adopt_launcher_environment()


def test_a_task_whose_count_was_unset_is_alone(environment, no_terminal):
    task_of_four(environment, "0")
    environment.delenv("SLURM_NTASKS")
    environment.setenv("SLURM_STEP_NUM_TASKS", "4")
    ranks.adopt_launcher_environment()
    assert (ranks.rank(), ranks.world_size()) == (0, 1)


def test_a_task_beyond_its_count_is_refused_and_trains_nothing_alone(environment, no_terminal):
    task_of_four(environment, "0")
    environment.setenv("SLURM_PROCID", "2")
    environment.setenv("SLURM_NTASKS", "1")
    with pytest.raises(InputError, match="SLURM_PROCID is 2, but SLURM_NTASKS says 1"):
        ranks.adopt_launcher_environment()


def test_a_task_of_srun_without_a_terminal_is_one_of_four(environment, no_terminal):
    task_of_four(environment, "0")
    environment.setenv("MASTER_ADDR", "h")
    environment.setenv("MASTER_PORT", "1")
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
