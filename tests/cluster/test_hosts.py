"""Training on two real hosts over ssh and pdsh: the numbers of one host, and the end when one is lost."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from train_command import flags, train
from two_hosts import ROOT, Hosts, Launched

pytestmark = [pytest.mark.cluster, pytest.mark.dist]
TIMEOUT_S = 24.0
MARGIN_S = 90.0  # the others' last words, ssh, and a machine under load
SMALL_STEPS = ("--lr", "1e-4", "--prototype_lr_scale", "1", "--task_lr_scale", "0.1", "--precision", "fp32")
EPOCHS = 8 + 5 + 4


def of_run(phantom: Path, out: Path, name: str, *more: str) -> list[str]:
    return flags(
        phantom,
        out,
        *SMALL_STEPS,
        "--log_every",
        "1",
        *more,
        exp_name=name,
        batch_size="8",
        epochs_stage1="8",
        epochs_stage3="4",
    )


def records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts-results") / "results"


@pytest.fixture(scope="module")
def pair(hosts: Hosts, phantom_folder: Path, out: Path) -> Path:
    """Return an undisturbed run on two hosts."""
    run = Launched(hosts, of_run(phantom_folder, out, "pair"), out.parent / "pair.txt")
    assert run.wait() == 0, run.text[-3000:]
    assert hosts.left() == {}
    return out / "pair"


def test_two_hosts_train_as_one_host_with_two_ranks(pair, phantom_folder, out):
    alone = of_run(phantom_folder, out, "alone")
    done = train(*alone, launcher="torchrun")
    assert done.returncode == 0, done.stderr
    expected, got = records(out / "alone"), records(pair)
    assert len(got) == len(expected) == EPOCHS
    for one, two in zip(expected, got):
        for name in ("train_loss", "val_loss"):
            assert two.get(name) == pytest.approx(one.get(name), abs=1e-6), (
                f"{one['stage']} epoch {one['epoch']}"
            )
    one, two = (torch.load(out / name / "final_model.pth", weights_only=True) for name in ("alone", "pair"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_each_host_has_its_own_log_and_board(pair):
    assert sorted(p.name for p in (pair / "logs").iterdir()) == ["rank0-node1.log", "rank1-node2.log"]
    assert sorted(p.name for p in (pair / "tensorboard").iterdir()) == ["rank0-node1", "rank1-node2"]
    assert json.loads((pair / "config.json").read_text())["world_size"] == 2


def kill_the_rank_of_node2(hosts: Hosts) -> None:
    ranks = {p: words for p, words in hosts.processes("node2").items() if "-m csr.train" in words}
    hosts.signal(ranks, signal.SIGKILL)


def cut_the_link(hosts: Hosts) -> None:
    hosts.link("node2", "down")


def stop_all_of_node2(hosts: Hosts) -> None:
    hosts.signal(hosts.processes("node2"), signal.SIGSTOP)


FAULTS: list[tuple[Callable[[Hosts], None], float, str]] = [
    (kill_the_rank_of_node2, 0.0, "killed"),
    (cut_the_link, TIMEOUT_S, "silent"),
    (stop_all_of_node2, TIMEOUT_S, "silent"),
]


def test_a_lost_host_ends_the_run_everywhere_and_the_same_command_goes_on(hosts, pair, phantom_folder, out):
    """One run that loses its second host three times, each time in another way."""
    command = of_run(phantom_folder, out, "lost", "--timeout", str(TIMEOUT_S / 60))
    folder, done = out / "lost", 0
    for fault, patience_s, reason in FAULTS:
        run = Launched(hosts, command, out.parent / f"{fault.__name__}.txt")
        run.wait_until(lambda seen=done: len(records(folder)) > seen)
        fault(hosts)
        since = time.monotonic()
        try:
            assert run.wait(seconds=patience_s + MARGIN_S) == 1, run.text[-3000:]
        finally:
            hosts.link("node2", "up")
        assert "rank 1 of 2 on host node2" in run.text and reason in run.text, run.text[-3000:]
        assert hosts.left() == {}, f"after {fault.__name__}"
        assert time.monotonic() - since < patience_s + MARGIN_S
        assert not (folder / "results.json").exists()
        done = len(records(folder))
    run = Launched(hosts, command, out.parent / "finished.txt")
    run.wait_until(lambda: len(records(folder)) > done)
    hosts.link("node2", "down")
    time.sleep(TIMEOUT_S / 4)  # a cable that comes back in time does no harm
    hosts.link("node2", "up")
    assert run.wait() == 0, run.text[-3000:]
    assert "resumes in the" in run.text
    assert hosts.left() == {}
    kept = [(r["stage"], r["epoch"], r["train_loss"]) for r in records(folder)]
    assert kept == [(r["stage"], r["epoch"], r["train_loss"]) for r in records(pair)]
    expected, got = (torch.load(f / "final_model.pth", weights_only=True) for f in (pair, folder))
    assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_a_signal_reaches_the_ranks_of_both_hosts_which_save_and_leave_with_75(hosts, phantom_folder, out):
    run = Launched(hosts, of_run(phantom_folder, out, "signalled"), out.parent / "signalled.txt")
    run.wait_until(lambda: len(records(out / "signalled")) > 0)
    launchers = {p: words for p, words in hosts.processes("node1").items() if "-m csr launch" in words}
    hosts.signal(launchers, signal.SIGTERM)
    assert run.wait(seconds=MARGIN_S) == 75, run.text[-3000:]
    assert run.text.count("csr: pre-empted: ") == 1
    assert hosts.left() == {}
    assert list((out / "signalled" / "checkpoints").glob("checkpoint-*"))


def test_a_killed_launcher_takes_its_ranks_along(hosts, phantom_folder, out):
    run = Launched(hosts, of_run(phantom_folder, out, "orphaned"), out.parent / "orphaned.txt")
    run.wait_until(lambda: len(records(out / "orphaned")) > 0)
    others = ("-m csr launch", "/deepspeed", "pdsh")
    hosts.signal(hosts.processes("node1", of=others), signal.SIGKILL)
    run.wait(seconds=MARGIN_S)
    assert hosts.left(within_s=MARGIN_S) == {}


# the check before a run


def doctor(hosts: Hosts, phantom: Path, *more: str | Path) -> Any:
    data = (
        "--train_csv",
        phantom / "labels_train.csv",
        "--test_csv",
        phantom / "labels_test.csv",
        "--train_dir",
        phantom / "train",
        "--test_dir",
        phantom / "test",
        "--output_dir",
        phantom.parent,
    )
    return hosts.run("node1", "csr", "doctor", "--hostfile", hosts.hostfile, *data, *more)


def test_the_doctor_finds_both_hosts_ready(hosts, phantom_folder):
    done = doctor(hosts, phantom_folder)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.startswith("node1: ok: ") and second.startswith("node2: ok: ")
    assert "train_dir 48" in first and last.startswith("all reach node1 at 10.")


def test_the_doctor_names_every_host_that_cannot_be_reached(hosts, phantom_folder, tmp_path):
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("node1 slots=1\nnode2 slots=1\nnode3 slots=1\n")
    hosts.link("node2", "down")
    try:
        done = doctor(hosts, phantom_folder, "--hostfile", hostfile)
    finally:
        hosts.link("node2", "up")
    assert done.returncode == 2
    first, second, third = done.stdout.splitlines()
    assert first.startswith("node1: ok: ")
    assert second.startswith("node2: FAILED: ssh fails (") and "`ssh node2 true` must work" in second
    assert third.startswith("node3: FAILED: ssh fails (")
    assert done.stderr.splitlines()[-1] == "csr: error: 2 of 3 host(s) are not ready: node2, node3"


def test_the_doctor_finds_other_code_other_data_and_a_folder_that_is_not_shared(
    hosts, phantom_folder, tmp_path
):
    code, table, empty, results = (tmp_path / name for name in ("csr", "labels.csv", "empty", "results"))
    shutil.copytree(ROOT / "csr", code, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "__init__.py").write_text('"""Another one."""\n__version__ = "9"\n')
    csv = phantom_folder / "labels_train.csv"
    table.write_text(csv.read_text().replace(",0,", ",1,", 1))
    empty.mkdir()
    results.mkdir()
    with (
        hosts.mounted(code, ROOT / "csr", host="node2"),
        hosts.mounted(table, csv, host="node2"),
        hosts.mounted(empty, phantom_folder / "test", host="node2"),
        hosts.mounted(empty, results, host="node2"),
    ):
        done = doctor(hosts, phantom_folder, "--output_dir", results)
    assert done.returncode == 2
    first, second = done.stdout.splitlines()
    assert first.startswith("node1: ok: ") and second.startswith("node2: FAILED: ")
    assert "csr is 9, on node1 " in second
    assert "--train_csv differs from that of node1" in second
    assert "--test_dir differs from that of node1 (0 images, there 24)" in second
    assert f"{results} is another folder than on node1" in second
    assert list(results.iterdir()) == []


def test_a_run_with_hosts_that_are_not_ready_does_not_start(hosts, phantom_folder, out, tmp_path):
    hosts.hostfile.with_name("bad").write_text("node1 slots=1\nnode2 slots=400\n")
    launch = (ROOT / "scripts" / "launch.sh", hosts.hostfile.with_name("bad"), "--")
    done = hosts.run("node1", *launch, *of_run(phantom_folder, out, "never"))
    assert done.returncode == 2
    assert "node2: FAILED: slots=400 in line 2, but there are" in done.stdout
    assert not (out / "never").exists() and hosts.left() == {}
