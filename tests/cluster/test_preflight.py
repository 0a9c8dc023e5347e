"""The verdict on the hosts' answers: every difference is reported with the host, the other value, the fix."""

from __future__ import annotations

import copy
import os
import re
import socket
import threading
from typing import Any

import pytest

from csr.cluster import host_report, ssh
from csr.cluster.comparison import Checked, compare, meeting_place
from csr.cluster.hostfile import Host
from csr.cluster.preflight import Preflight, check_hosts
from csr.runtime.errors import InputError

FACTS: dict[str, Any] = {
    "host": "x",
    "csr": "0.1.0",
    "code": "c0de" * 16,
    "python": "3.11.2",
    "torch": "2.9.0",
    "deepspeed": "0.18.0",
    "gpus": [],
    "cores": 8,
    "bf16": False,
    "fp16": False,
    "disk_mib": 50_000,
    "shm_mib": 1000,
    "programs": {},
    "reached": ["10.0.0.1"],
    "shares_output": True,
    "data": {"train_csv": {"hash": "a", "count": 100}, "train_dir": {"hash": "b", "count": 7}},
}
OPENING = {
    "time": 0.0,
    "addresses": ["10.0.0.1"],
    "output": "/results",
    "port": 20_000,
    "output_problem": None,
}
GPU = {"name": "NVIDIA H200", "mib": 143_000}


def pair(**changed: Any) -> list[Checked]:
    """Return two hosts that are alike but for what is given of the second one."""
    second = {**copy.deepcopy(FACTS), **changed}
    return [
        Checked(Host("node1", 8, 1), dict(OPENING), copy.deepcopy(FACTS)),
        Checked(Host("node2", 8, 2), dict(OPENING), second),
    ]


def test_hosts_that_are_alike_are_ready_and_meet_where_all_reach():
    checked = pair()
    compare(checked)
    assert meeting_place(checked, ["172.17.0.1", "10.0.0.1"]) == "10.0.0.1"
    outcome = Preflight(checked, "10.0.0.1", 20_000)
    outcome.require_ready()
    assert outcome.lines[0] == (
        "node1: ok: csr 0.1.0 (c0dec0de), torch 2.9.0, deepspeed 0.18.0, 8 cores for 8 rank(s), clock +0.0 "
        "s, 48.8 GiB free, same data, train_dir 7"
    )
    assert outcome.lines[2] == "all reach node1 at 10.0.0.1 port 20000"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"csr": "0.2.0", "code": "f00"}, "csr is 0.2.0, on node1 0.1.0: install the same version on both"),
        (
            {"code": "f00d" * 16},
            "the code of csr is f00df00d, on node1 c0dec0de: bring both to the same revision",
        ),
        ({"torch": "2.8.0"}, "torch is 2.8.0, on node1 2.9.0: install the same version on both"),
        ({"python": "3.10.1"}, "python is 3.10.1, on node1 3.11.2"),
        ({"cores": 4}, "slots=8 in line 2, but there are 4 cores: lower slots"),
        ({"gpus": [GPU] * 8}, "has 8 x NVIDIA H200, node1 8 cores: take one kind alone"),
        ({"disk_mib": 12}, "12 MiB free for --output_dir: make room"),
        ({"shares_output": False}, "/results is another folder than on node1"),
        (
            {"data": {**FACTS["data"], "train_csv": {"hash": "z", "count": 90}}},
            "--train_csv differs from that of node1 (90 bytes, there 100): copy it again",
        ),
        (
            {"data": {**FACTS["data"], "train_dir": {"problem": "No such file or directory"}}},
            "--train_dir: No such file or directory: the data must be under the same path on each host",
        ),
    ],
)
def test_a_host_that_differs_is_reported_with_the_fix_and_the_other_is_ready(changed, problem):
    checked = pair(**changed)
    compare(checked)
    assert checked[0].problems == []
    assert len(checked[1].problems) == 1 and checked[1].problems[0].startswith(problem)
    assert checked[1].line() == f"node2: FAILED: {checked[1].problems[0]}"
    with pytest.raises(InputError, match="1 of 2 host.s. are not ready: node2"):
        Preflight(checked, None, None).require_ready()


def test_all_that_differs_stands_in_one_line():
    checked = pair(torch="2.8.0", deepspeed=None, cores=1)
    checked[1].clock_s = -90.0
    compare(checked)
    line = checked[1].line()
    for part in (
        "torch is 2.8.0",
        "deepspeed is None",
        "deepspeed is not installed",
        "slots=8",
        "its clock is -90 s",
    ):
        assert part in line
    assert "\n" not in line


def test_a_host_that_does_not_reach_the_master_is_named():
    checked = pair(reached=[])
    assert meeting_place(checked, ["10.0.0.1"]) is None
    assert checked[0].problems == [] and "cannot reach node1 at 10.0.0.1 port 20000" in checked[1].problems[0]


def test_a_port_that_is_in_use_is_a_problem_of_the_master():
    with socket.create_server(("", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            host_report.listen(taken.getsockname()[1])
    with host_report.listen(None) as server:
        assert server.getsockname()[1] in host_report.PORTS
    checked = pair()
    checked[0].opening = {**OPENING, "port": None, "port_problem": "Address already in use"}
    assert meeting_place(checked, ["10.0.0.1"]) is None
    assert "Address already in use" in checked[0].problems[0] and "--master_port" in checked[0].problems[0]


def test_another_service_on_the_port_is_not_taken_for_the_master():
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(5)
        assert not host_report.reaches("127.0.0.1", 1, "token")

        def serve() -> None:
            connection, _ = other.accept()
            connection.sendall(b"SSH-2.0")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert not host_report.reaches("127.0.0.1", other.getsockname()[1], "token")
        thread.join()


@pytest.mark.parametrize(
    ("code", "output", "reason"),
    [
        (
            255,
            ["ssh: connect to host a port 22: Connection refused"],
            "ssh fails (.*refused): `ssh a true` must work",
        ),
        (97, [], "has no folder /runs"),
        (127, ["bash: python: not found"], "the same virtual environment must be on each host"),
        (
            1,
            ["x: No module named csr.cluster"],
            "has no csr.cluster.host_report: install the csr of this machine",
        ),
        (1, ["Traceback", "ValueError: y"], "csr fails there (ValueError: y)"),
        (9, [], "csr fails there (exit code 9)"),
    ],
)
def test_why_a_host_did_not_answer_is_reported_in_plain_words(code, output, reason):
    text = ssh.reason("a", code, output, folder="/runs", module="csr.cluster.host_report")
    assert re.search(reason.replace("(", r"\(").replace(")", r"\)"), text)


@pytest.mark.dist
def test_all_hosts_are_asked_and_all_problems_are_found_at_once(fake_ssh, phantom_folder, tmp_path):
    hosts = [Host("here", 1, 1), Host("gone1", 1, 2), Host("there", 1000, 3), Host("gone2", 1, 4)]
    paths = {"train_csv": str(phantom_folder / "labels_train.csv"), "test_dir": str(phantom_folder / "test")}
    outcome = check_hosts(hosts, paths=paths, output_dir=str(tmp_path / "results"))
    lines = outcome.lines
    assert len(lines) == 4
    assert lines[0].startswith("here: ok: csr ") and "test_dir 24" in lines[0]
    assert lines[1].startswith(
        "gone1: FAILED: ssh fails (ssh: connect to host gone1 port 22: No route to host)"
    )
    assert lines[2].startswith("there: FAILED: slots=1000 in line 3, but there are ")
    assert lines[3].startswith("gone2: FAILED: ")
    assert outcome.master_port in host_report.PORTS and outcome.master_addr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin"], "nothing is left"


def test_a_host_that_does_not_answer_is_given_up(fake_ssh, monkeypatch, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(ssh.sys, "executable", str(slow))
    talk = ssh.Conversation("a", "x", port=None, folder=os.getcwd(), limit_s=0.5)
    try:
        with pytest.raises(ssh.UnreachableError, match="did not answer within"):
            talk.ask({})
    finally:
        talk.close()
