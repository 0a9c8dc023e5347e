"""One rank dies, stops or hangs: the run ends on all ranks, names it and its place, leaves nothing."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from train_command import flags

from csr.runtime.progress import Progress, described
from csr.runtime.watchdog import keeper
from csr.runtime.watchdog.heartbeat import GONE_S, LEAVE_S, Beat, Ending, Peer, Verdict, judge
from csr.runtime.watchdog.hub import Hub, Line, Lines, encoded
from csr.runtime.watchdog.processes import Process, this_process
from csr.runtime.watchdog.watch import Watch

ELSEWHERE = Process(4711, 1, "another machine")
TIMEOUT_S = 60.0


def beat(rank: int, **changed: Any) -> Beat:
    place = {"stage": "concept", "epoch": 2, "step": 5, "doing": "", "joined": 10}
    place.update(changed.pop("place", {}))
    values = {
        "rank": rank,
        "host": f"node{rank}",
        "process": ELSEWHERE,
        "place": place,
        "idle_s": 0.5,
        "still_s": 0.0,
    }
    return Beat(**{**values, **changed})


def verdict(*peers: Peer) -> Verdict | None:
    return judge(peers, timeout_s=TIMEOUT_S, world=len(peers))


# what ends a run


def test_ranks_that_are_heard_of_and_get_on_end_nothing():
    assert verdict(Peer(beat(0)), Peer(beat(1), silent_s=59.0)) is None


def test_a_silent_rank_is_named_with_host_place_and_time():
    found = verdict(Peer(beat(0)), Peer(beat(1, idle_s=4.0), silent_s=61.0))
    assert found is not None and found.code == 1 and found.culprits == (ELSEWHERE,)
    assert "rank 1 of 2 on host node1 has been silent for 61 s" in found.message
    assert "last seen in the concept stage, epoch 2, step 5, 65 s ago" in found.message
    assert "logs/rank1-node1.log" in found.message and "\n" not in found.message


def test_many_silent_ranks_are_told_in_one_line():
    found = verdict(Peer(beat(0)), *(Peer(beat(r), silent_s=61.0) for r in range(1, 8)))
    assert found is not None
    named = (
        "ranks 1 on host node1, 2 on host node2, 3 on host node3, 4 on host node4 and 3 more (of 8) have been"
    )
    assert found.message.startswith(named)


def test_a_connection_that_does_not_come_back_is_a_rank_that_died_long_before_the_time_out():
    assert verdict(Peer(beat(0)), Peer(beat(1), lost_s=GONE_S - 0.1)) is None
    found = verdict(Peer(beat(0)), Peer(beat(1), lost_s=GONE_S + 0.1))
    assert found is not None and "rank 1 of 2 on host node1 has ended without a word" in found.message


def test_a_rank_is_stuck_only_if_another_is_ahead_of_it_and_it_does_not_get_on():
    ahead, waiting = {"joined": 11}, {"idle_s": 61.0, "still_s": 61.0}
    assert verdict(Peer(beat(0, place=ahead, **waiting)), Peer(beat(1, idle_s=59.0))) is None, "it gets on"
    assert verdict(Peer(beat(0, place=ahead, **waiting)), Peer(beat(1, idle_s=200.0))) is None, "it computes"
    spinning = {"idle_s": 61.0}
    assert verdict(Peer(beat(0, **spinning)), Peer(beat(1, **waiting))) is None, (
        "no rank waits for it: a long step"
    )
    found = verdict(Peer(beat(0, place=ahead, **waiting)), Peer(beat(1, **waiting)))
    assert found is not None
    assert "rank 1 of 2 on host node1 does not move on while others wait: nothing for 61 s" in found.message
    assert verdict(Peer(beat(0, place=ahead, **waiting)), Peer(beat(1, idle_s=241.0))), (
        "computing, but for ever"
    )


def test_ranks_that_all_stand_still_in_one_place_end_with_a_line():
    """A collective that cannot end: NCCL would abort the process a minute later, without one."""
    still = {"idle_s": 241.0}
    found = verdict(Peer(beat(0, **still)), Peer(beat(1, **still)))
    assert found is not None and "(of 2) do not move on, none of them: nothing for 241 s" in found.message
    assert verdict(Peer(beat(0, **still)), Peer(beat(1, idle_s=239.0))) is None, "one gets on"
    assert judge([Peer(beat(0, **still))], timeout_s=TIMEOUT_S, world=2) is None, "not all were heard"


def test_ranks_that_neither_move_on_nor_compute_end_after_the_time_out_itself():
    still = {"idle_s": 61.0, "still_s": 61.0}
    found = verdict(*(Peer(beat(rank, **still)) for rank in range(3)))
    assert found is not None and found.code == 1
    assert "(of 3) do not move on, none of them: nothing for 61 s" in found.message
    for other in ({"idle_s": 61.0, "still_s": 59.0}, {"idle_s": 61.0}):
        assert verdict(Peer(beat(0, **still)), Peer(beat(1, **other))) is None, "one computes"


def test_a_wait_for_a_gpu_that_takes_a_core_is_no_computing():
    pending = [False]
    watch = Watch(timeout_s=1000.0, waits_for_gpu=lambda: pending[0])

    def spin() -> None:
        until = time.process_time() + 0.2  # more than its share of the three beats that count at most
        while time.process_time() < until:
            pass

    try:
        watch.awake_s()
        for waits in (False, True, True):
            spin()
            pending[0] = waits
            before = watch.beat()
            seconds = watch.awake_s()
            after = watch.beat()
            assert after.idle_s == pytest.approx(before.idle_s + seconds)
            assert after.still_s == (pytest.approx(before.still_s + seconds) if waits else 0.0)
    finally:
        watch.dismiss_keeper()


def test_a_rank_that_fails_ends_all_at_once_and_one_that_left_in_agreement_after_a_while():
    alone = Ending(1, "rank 1 failed: KeyError", alone=True)
    assert verdict(Peer(beat(0)), Peer(beat(1, ending=alone))) == Verdict(1, alone.message)
    agreed = Ending(75, "stopped", alone=False)
    left = Peer(beat(1, ending=agreed), lost_s=GONE_S + 1)
    assert verdict(Peer(beat(0)), left) is None
    left.wait(LEAVE_S + 0.1)
    assert verdict(Peer(beat(0)), left) == Verdict(75, "stopped")


def test_ranks_that_are_done_are_not_waited_for():
    done = Peer(beat(1, ending=Ending(0, "done", alone=False)), silent_s=999.0, lost_s=999.0)
    assert verdict(Peer(beat(0, idle_s=99.0)), done) is None


def test_beats_and_verdicts_survive_the_wire():
    sent = beat(3, ending=Ending(1, "why", alone=True))
    (heard,) = Lines().add(encoded(sent.to_dict()))
    assert Beat.from_dict(heard) == sent
    ended = Verdict(1, "why", (ELSEWHERE, this_process()))
    (heard,) = Lines().add(encoded(ended.to_dict()))
    assert Verdict.from_dict(heard) == ended


# where a rank is


def test_a_place_in_words():
    progress = Progress()
    assert described(progress.to_dict()) == "before training"
    progress.now("image 5 of 60")
    assert described(progress.to_dict()) == "before training (image 5 of 60)"
    progress.at("prototype", 1, 7)
    assert [
        described(progress.to_dict()) for _ in progress.along("ab", total=2, title="features (train)")
    ] == [f"in the prototype stage, epoch 1, step 7 (features (train), batch {i} of 2)" for i in (1, 2)]
    assert described(progress.to_dict()) == "in the prototype stage, epoch 1, step 7"


def test_every_kind_of_progress_is_a_move_and_only_common_places_are_joined():
    progress, moves = Progress(), []
    progress.at("concept", 1, 1)
    moves.append(progress.moves)
    progress.now("validation")
    moves.append(progress.moves)
    with progress:
        moves.append(progress.moves)
    moves.append(progress.moves)
    assert moves == sorted(set(moves)) and progress.joined == 1


# processes


def test_a_process_is_known_by_its_beginning_not_by_its_number():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        known = dataclasses.replace(this_process(), pid=child.pid, began=int(stat[19]))
        assert known.state() in ("S", "R", "D")
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: known.state() == "T")
        dataclasses.replace(known, began=known.began + 1).kill()
        dataclasses.replace(known, machine="another machine").kill()
        assert child.poll() is None
        known.kill()
        assert child.wait(timeout=60) == -signal.SIGKILL
        assert known.state() == ""
    finally:
        child.kill()


def wait_until(condition: Any, *, within_s: float = 60.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


KEEPER = """
import os, subprocess, sys, time
command = [sys.executable, "-I", "-S", sys.argv[1], str(os.getpid()), "1.5"]
keeper = subprocess.Popen(command, stdin=subprocess.PIPE)
print(keeper.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def kept():
    """Start a process with a keeper of 1.5 s patience; return it and the keeper's number."""
    command = [sys.executable, "-c", KEEPER, keeper.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.dist
def test_a_keeper_ends_a_process_that_stays_stopped_and_then_itself(kept):
    process, pid = kept
    process.send_signal(signal.SIGSTOP)
    assert process.wait(timeout=60) == -signal.SIGKILL
    wait_until(lambda: not lives(pid))


@pytest.mark.dist
def test_a_keeper_leaves_a_process_alone_that_goes_on_and_ends_with_it(kept):
    process, pid = kept
    for _ in range(2):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        process.send_signal(signal.SIGCONT)
        time.sleep(1.2)
    assert process.poll() is None and lives(pid)
    process.kill()
    wait_until(lambda: not lives(pid))


# the wire


class Listening:
    """A hub that runs in a thread and answers with what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Any]] = []
        self.lost: list[int] = []
        self.hub = Hub("127.0.0.1", token="secret", heard=self._hear, lost=self.lost.append)
        self.ends = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _hear(self, rank: int, message: dict[str, Any]) -> dict[str, Any]:
        self.heard.append((rank, message["n"]))
        return {"n": message["n"]}

    def _serve(self) -> None:
        while not self.ends.is_set():
            self.hub.serve(0.05)

    def close(self) -> None:
        self.ends.set()
        self._thread.join(timeout=60)
        self.hub.close()


@pytest.fixture
def listening():
    made = Listening()
    yield made
    made.close()


def test_messages_reach_the_hub_and_answers_come_back(listening):
    line = Line("127.0.0.1", listening.hub.port)
    for n in range(3):
        assert line.exchange({"token": "secret", "rank": 1, "n": n}, within_s=30) == {"n": n}
    assert listening.heard == [(1, 0), (1, 1), (1, 2)]
    line.close()
    wait_until(lambda: listening.lost == [1])


GARBAGE = (b"GET / HTTP/1.0\r\n\r\n", b'{"token": "guess", "rank": 0, "n": 1}\n', b"[1]\n", b"x" * 200_000)


@pytest.mark.parametrize("garbage", GARBAGE, ids=["http", "wrong token", "no message", "no end"])
def test_strangers_are_shown_the_door(listening, garbage):
    with socket.create_connection(("127.0.0.1", listening.hub.port), timeout=60) as stranger:
        stranger.sendall(garbage)
        try:
            assert stranger.recv(100) == b""
        except ConnectionResetError:
            pass
    assert (listening.heard, listening.lost) == ([], [])
    assert Line("127.0.0.1", listening.hub.port).exchange({"token": "secret", "rank": 1, "n": 1}, within_s=30)


def test_a_hub_that_does_not_answer_is_silence_and_one_that_is_gone_an_error():
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        line = Line("127.0.0.1", deaf.getsockname()[1])
        for _ in range(3):
            assert line.exchange({"n": 1}, within_s=0.05) is None
        connection, _ = deaf.accept()
        assert connection.recv(1000) == encoded({"n": 1}), "sent once: nothing piles up before a stopped hub"
        connection.close()
    with pytest.raises(OSError):
        line.exchange({"n": 1}, within_s=0.05)
    with pytest.raises(OSError, match="refused"):
        line.exchange({"n": 1}, within_s=0.05)


def test_a_broken_connection_is_made_anew(listening):
    line = Line("127.0.0.1", listening.hub.port)
    assert line.exchange({"token": "secret", "rank": 1, "n": 1}, within_s=30)
    line.close()
    assert line.exchange({"token": "secret", "rank": 1, "n": 2}, within_s=30) == {"n": 2}


# real runs

LOST_RANK = Path(__file__).resolve().parents[1] / "helpers" / "lost_rank.py"
STEP, FEATURES = "csr.engine.engine:Engine.micro_step", "csr.stages.prototype:PrototypeStage.inputs"
FEW = {
    "epochs_stage1": "2",
    "epochs_stage2": "2",
    "epochs_stage3": "2",
    "batch_size": "8",
}  # 3 steps an epoch
TIMEOUT_MIN = 0.2
LAUNCHERS = ("torchrun", "deepspeed", "plain")


@dataclasses.dataclass
class Ended:
    code: int
    out: str
    err: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """Return csr's own lines on stderr."""
        return [line for line in self.err.splitlines() if line.startswith("csr: ")]


def run(launcher: str, *words: str, within_s: float = 400.0) -> Ended:
    """Run `python WORDS` on two ranks under a launcher, or by hand; fail if a process of it is left."""
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    mark = f"CSR_TEST_RUN={uuid.uuid4().hex}"
    env = {k: v for k, v in os.environ.items() if k not in launched}
    env |= {
        "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        **dict([mark.split("=")]),
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    commands = {
        "torchrun": [["torchrun", "--standalone", "--nproc_per_node=2", *words]],
        "deepspeed": [
            ["deepspeed", "--num_accelerators", "2", "--master_port", port, "--no_local_rank", *words]
        ],
        "plain": [[Path(sys.executable).name, *words]] * 2,
    }[launcher]
    began = time.monotonic()
    processes = []
    for rank, command in enumerate(commands):
        program = shutil.which(command[0], path=env["PATH"])
        assert program is not None
        own = (
            {}
            if launcher != "plain"
            else {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
        )
        processes.append(
            subprocess.Popen(
                [program, *command[1:]],
                env=env | own,
                text=True,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    try:
        outputs = [p.communicate(timeout=within_s) for p in processes]
    finally:
        until = time.monotonic() + 5.0  # a keeper needs a moment to see that its rank was killed
        while (left := of_run(mark)) and time.monotonic() < until:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    seconds = time.monotonic() - began
    assert not left, f"processes are left: {left}"
    codes = [p.returncode for p in processes]
    return Ended(max(codes, key=abs), *("".join(texts) for texts in zip(*outputs)), seconds)


def of_run(mark: str) -> list[int]:
    """Return the living processes that were started with this mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # another user's, or it has just ended
            continue
    return found


def lose(launcher: str, rank: int | str, what: str, place: str, number: int, arguments: list[str]) -> Ended:
    ended = run(launcher, str(LOST_RANK), str(rank), what, place, str(number), *arguments)
    assert ended.code != 0
    assert len(ended.lines) == 1, ended.err
    return ended


def arguments_of(phantom: Path, out: Path, *more: str, **changed: str) -> list[str]:
    return flags(phantom, out, "--timeout", str(TIMEOUT_MIN), *more, **{**FEW, **changed})


def logs(out: Path) -> dict[int, str]:
    return {int(p.name[4]): p.read_text() for p in (out / "csr_exp" / "logs").glob("rank*.log")}


def assert_resumes(launcher: str, arguments: list[str], out: Path) -> None:
    words = ["-m", "csr.train"] if launcher != "deepspeed" else ["--module", "csr.train"]
    done = run(launcher, *words, *arguments)
    assert done.code == 0, done.err
    assert ": resumes " in done.out
    assert (out / "csr_exp" / "results.json").is_file()


PLACES = {
    STEP: (5, r"in the concept stage, epoch 2, step 2, \d+ s ago"),
    FEATURES: (
        1,
        r"in the prototype stage, epoch 1, step 0 \(features \(train\), batch 1 of \d\), \d+ s ago",
    ),
}


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=["stage 1", "feature cache"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_stopped_rank_ends_the_run_which_resumes_later(phantom_folder, tmp_path, launcher, place):
    out = tmp_path / "results"
    arguments = arguments_of(phantom_folder, out)
    number, where = PLACES[place]
    ended = lose(launcher, 1, "STOP", place, number, arguments)
    host = re.escape(socket.gethostname())
    expected = rf"csr: error: rank 1 of 2 on host {host} has been silent for 1[23] s; last seen {where}"
    assert re.match(expected, ended.lines[0]), ended.lines
    assert "is stopped)" in ended.lines[0]
    assert "has been silent" in logs(out)[0]
    assert_resumes(launcher, arguments, out)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_rank_ends_the_run_at_once(phantom_folder, tmp_path, launcher, rank):
    out = tmp_path / "results"
    arguments = arguments_of(phantom_folder, out, "--timeout", "5")
    ended = lose(launcher, rank, "KILL", STEP, 5, arguments)
    assert f"rank {rank} of 2 on host {socket.gethostname()} has ended without a word" in ended.lines[0]
    assert "in the concept stage, epoch 2, step " in ended.lines[0]
    assert "Traceback" not in "".join(line for line in ended.err.splitlines() if "csr" in line)
    assert ended.seconds < 240, "not the time-out of 5 minutes"
    if rank == 0:
        assert_resumes(launcher, arguments, out)


@pytest.mark.dist
@pytest.mark.slow
def test_a_stopped_rank_0_is_reported_by_the_next_one(phantom_folder, tmp_path):
    ended = lose("torchrun", 0, "STOP", STEP, 5, arguments_of(phantom_folder, tmp_path / "results"))
    assert re.match(r"csr: error: rank 0 of 2 on host .* has been silent for 1[23] s", ended.lines[0]), (
        ended.lines
    )


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_that_hangs_without_stopping_is_distinguished_from_those_that_wait_for_it(
    phantom_folder, tmp_path
):
    ended = lose("torchrun", 1, "HANG", STEP, 5, arguments_of(phantom_folder, tmp_path / "results"))
    assert "rank 1 of 2" in ended.lines[0] and "does not move on while others wait" in ended.lines[0]
    assert "in the concept stage, epoch 2, step 2" in ended.lines[0]


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    "rank, what, told",
    [
        ("all", "HANG", r"ranks 0 on host \S+, 1 on host \S+ \(of 2\) do not move on, none of them"),
        ("all", "SPIN", r"ranks 0 on host \S+, 1 on host \S+ \(of 2\) do not move on, none of them"),
        ("1", "SPIN", r"rank 1 of 2 on host \S+ does not move on while others wait"),
    ],
)
def test_a_wait_that_never_ends_is_told_within_the_time_out(phantom_folder, tmp_path, rank, what, told):
    """Of a rank or all, asleep as on gloo or spinning as for a collective on a GPU."""
    ended = lose("torchrun", rank, what, STEP, 5, arguments_of(phantom_folder, tmp_path / "results"))
    (seconds,) = re.findall(rf"csr: error: {told}: nothing for (\d+) s; last seen in the", ended.lines[0])
    assert 12 <= int(seconds) < 24, "a time-out of 12 s, and not three of them and a minute"


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("launcher, rank", [("torchrun", 1), ("deepspeed", 1), ("plain", 0)])
def test_an_exception_on_one_rank_is_reported_once_and_its_traceback_is_in_that_ranks_log(
    phantom_folder, tmp_path, launcher, rank
):
    out = tmp_path / "results"
    ended = lose(launcher, rank, "RAISE", STEP, 5, arguments_of(phantom_folder, out))
    assert ended.code == 1
    assert re.search(
        rf"rank {rank} of 2 on host .* failed in the concept stage, epoch 2, step 2: KeyError: 'a bug' "
        rf"\(traceback in .*rank{rank}-.*\.log\)",
        ended.lines[0],
    ), ended.lines
    assert "KeyError" not in ended.err.replace(ended.lines[0], "")
    assert "Traceback" in logs(out)[rank] and "lost_rank.py" in logs(out)[rank]
    assert "Traceback" not in logs(out)[1 - rank]


@pytest.mark.dist
@pytest.mark.slow
def test_a_long_phase_of_one_rank_that_gets_on_trips_nothing(phantom_folder, tmp_path):
    """Rank 0 decodes for longer than the time-out while rank 1 waits for the images."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\nfrom csr.data.images import resize\ntook = resize.resize_file\n"
        "def slowly(*args, **more):\n    time.sleep(0.3)\n    return took(*args, **more)\n"
        "resize.resize_file = slowly\n"
        "from csr import train\nfrom csr.cli.exit_codes import exit_process, run_command\n"
        "exit_process(run_command(train.main))\n"
    )
    arguments = arguments_of(phantom_folder, tmp_path / "results", "--timeout", "0.1", epochs_stage1="1")
    done = run("torchrun", str(slow), *arguments)
    assert done.code == 0, done.err
    assert done.seconds > 72 * 0.3 > 60 * 0.1
