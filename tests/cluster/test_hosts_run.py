"""A launch from start to end with a stand-in for deepspeed: exit codes, signals, and that nothing is left."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from csr.cluster import host_processes, hosts_run
from csr.cluster.hostfile import Host
from csr.cluster.hosts_run import HostsRun, keep_alive, meaning_of

pytestmark = pytest.mark.dist
HOSTS = [Host("a", 1, 1), Host("b", 1, 2)]
# the second sleep is what a lost launcher leaves behind
RANK = "RANK=0 setsid bash -c '{trap}; touch $MARK; sleep 60 & wait'"


@pytest.fixture
def start(fake_ssh, tmp_path, monkeypatch):
    """Run a shell script as if it were the launcher: (exit code, lines reported, processes left)."""
    monkeypatch.setattr(hosts_run, "OTHERS_END_S", 0.5)
    monkeypatch.setattr(hosts_run, "GRACE_S", 1.0)
    monkeypatch.setattr(hosts_run, "LAUNCHER_ENDS_S", 1.0)

    def start(script: str, *signals: int) -> tuple[int, list[str], int]:
        run_id, lines = secrets.token_hex(8), []
        mark = tmp_path / "mark"
        environment = {**without_rank(), host_processes.RUN: run_id, "MARK": str(mark)}
        run = HostsRun(
            ["bash", "-c", script],
            environment=environment,
            hosts=HOSTS,
            run_id=run_id,
            ssh_port=None,
            report=lines.append,
        )

        def signal_us() -> None:
            while not mark.exists():
                time.sleep(0.05)
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(1.0)

        if signals:
            threading.Thread(target=signal_us, daemon=True).start()
        code = run.run()
        return code, lines, len(host_processes.of_run(run_id))

    return start


def without_rank() -> dict[str, str]:
    """Return this environment without a rank; a test before may have made this process a rank."""
    return {name: value for name, value in os.environ.items() if name != host_processes.RANK}


def ended(host: str, code: int) -> str:
    return f"echo 'pdsh@here: {host}: ssh exited with exit code {code}' >&2; "


def test_a_run_that_is_done_is_done(start, capfd):
    assert start("echo trained") == (0, [], 0)
    assert capfd.readouterr().out == "trained\n"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((75, 75), 75), ((2, 2), 2), ((1, 75), 1), ((247, 1), 1), ((255,), 1), ((75,), 75)],
)
def test_the_exit_code_is_that_of_the_hosts_where_they_agree(codes, expected, start):
    script = "".join(ended(host.name, code) for host, code in zip(HOSTS, codes))
    assert start(f"{script} exit {max(codes)}")[0] == expected


def test_a_lost_pdsh_is_no_success_and_its_ranks_are_ended(start):
    code, _, left = start(f"{RANK.format(trap=':')} >/dev/null 2>&1 & sleep 1; exit 0")
    assert (code, left) == (1, 0)


def test_a_host_that_ended_badly_ends_the_others_even_stopped_ones(start):
    stopped = f"{RANK.format(trap=':')} & sleep 0.5; kill -STOP $!; "
    code, lines, left = start(f"{stopped} {ended('a', 247)} sleep 60")
    assert (code, left) == (1, 0)
    assert "a ended with 247 (a rank was killed by SIGKILL): ending what is left on b" in lines[0]


def test_a_signal_is_passed_on_to_the_ranks_alone(start):
    script = f"trap 'exit 9' TERM; {RANK.format(trap='trap `exit 75` TERM'.replace('`', chr(34)))}; exit $?"
    code, lines, left = start(script, signal.SIGTERM)
    assert (code, left) == (75, 0)
    assert lines == ["SIGTERM: the ranks are asked to save and stop"]


def test_a_rank_that_a_signal_ends_before_it_listens_was_stopped_too(start):
    other = "RANK=1 setsid sleep 60 & "
    script = f"{other} {RANK.format(trap=':')}; {ended('a', 241)} sleep 60"
    assert start(script, signal.SIGINT)[::2] == (75, 0)


@pytest.fixture
def hang_up() -> Iterator[Callable[[Any], None]]:
    """Set what SIGHUP does here, which nohup may have changed for the tests themselves."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


def test_a_signal_before_any_rank_runs_ends_the_launcher(start, hang_up):
    hang_up(signal.SIG_DFL)
    code, lines, left = start("touch $MARK; sleep 60", signal.SIGHUP)
    assert (code, left) == (75, 0)
    assert lines[0] == "SIGHUP: no rank is running yet: ending the run"
    assert "run the same command again" in lines[1]


def test_a_hang_up_that_nohup_ignores_is_ignored(start, hang_up):
    hang_up(signal.SIG_IGN)
    code, lines, left = start("touch $MARK; sleep 1.5", signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "as it was"
    assert (code, left) == (0, 0)
    assert not any("SIGHUP" in line for line in lines)


def test_hosts_that_save_are_given_more_time(start):
    before = time.monotonic()
    assert start(f"{ended('a', 75)} sleep 3; {ended('b', 75)} exit 75")[0] == 75
    assert time.monotonic() - before > 3


def test_a_second_interrupt_stops_at_once(start):
    before = time.monotonic()
    code, _, left = start(f"{RANK.format(trap='trap : INT TERM')} & sleep 60", signal.SIGINT, signal.SIGINT)
    assert (code, left) == (130, 0)
    assert time.monotonic() - before < 45


def test_other_runs_of_the_same_user_are_left_alone():
    own, other = (secrets.token_hex(8) for _ in range(2))
    with (
        subprocess.Popen(["sleep", "60"], env={**without_rank(), host_processes.RUN: own}) as first,
        subprocess.Popen(
            ["sleep", "60"], env={**os.environ, host_processes.RUN: other, "RANK": "0"}
        ) as second,
    ):
        try:
            assert host_processes.ranks_of(own) == [] and host_processes.ranks_of(other) == [second.pid]
            waiting = threading.Thread(
                target=first.wait
            )  # a child of ours stays a zombie until it is waited for
            waiting.start()
            assert host_processes.end(own, 5.0) == (1, 0)
            waiting.join()
            assert second.poll() is None
        finally:
            second.kill()
            first.kill()


def test_ssh_notices_a_cut_link_when_the_ranks_do():
    for timeout_s in (3.0, 24.0, 600.0):
        words = keep_alive(timeout_s).split()
        interval, count = (int(w.split("=")[1]) for w in words if "Alive" in w)
        assert timeout_s <= interval * count + interval and interval * count <= timeout_s + 15


def test_exit_codes_are_told_in_words():
    assert meaning_of(1) == "1" and meaning_of(75) == "75"
    assert meaning_of(137) == "137 (SIGKILL)" and meaning_of(247) == "247 (a rank was killed by SIGKILL)"
    assert meaning_of(255) == "255 (ssh lost it)"
