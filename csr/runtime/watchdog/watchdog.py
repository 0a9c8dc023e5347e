"""Nobody waits for ever: a thread of each rank tells rank 0 where it is, and ends the process when a rank is lost.

The main thread of a rank that waits in a collective hears of nothing, so the thread speaks and leaves for it.
Rank 0 hears all ranks and decides; the others watch rank 0. The user reads one line, from rank 0 or, where that
is the one that is lost, from the first rank left on each host.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from csr.runtime import ranks
from csr.runtime.errors import EXIT_DONE, EXIT_FAILED, line_of
from csr.runtime.progress import PROGRESS
from csr.runtime.watchdog import keeper
from csr.runtime.watchdog.heartbeat import Beat, Ending, Peer, Verdict, judge
from csr.runtime.watchdog.hub import Hub, Line, Message
from csr.runtime.watchdog.processes import network, this_process

BEAT_S = 1.0
COMPUTES_SHARE = 0.05  # of a core: more than this thread and idle ones take
LINGER_S = 2.0  # rank 0 stays so long after its verdict, for the others to hear it
TOLD_S = 10.0  # a failing rank gives the others so long to tell the user
EXPLAINED_S = 15.0  # a broken connection to a peer is explained within this
REACHED_S = 20.0  # a first answer comes within this, or never
KEEPER_LATER_S = 5.0  # the others had the time-out to tell of a stopped rank


class _Watch(threading.Thread):
    """What both kinds share: this rank's beat, time that it was awake, the end."""

    def __init__(self, *, timeout_s: float) -> None:
        super().__init__(name="csr-watchdog", daemon=True)
        self.timeout_s, self.interval_s = timeout_s, min(BEAT_S, timeout_s / 10)
        self.ending: Ending | None = None
        self.wake, self.over = threading.Event(), threading.Event()
        self._process, self._host = this_process(), ranks.host()
        self._idle_s, self._still_s, self._moves = 0.0, 0.0, -1
        self._last, self._computed_s = time.monotonic(), time.process_time()
        self._keeper = (
            None
            if not self._process.machine
            else subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    keeper.__file__,
                    str(os.getpid()),
                    str(timeout_s + KEEPER_LATER_S),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def beat(self) -> Beat:
        return Beat(
            rank=ranks.rank(),
            host=self._host,
            process=self._process,
            place=PROGRESS.to_dict(),
            idle_s=self._idle_s,
            still_s=self._still_s,
            ending=self.ending,
        )

    def run(self) -> None:
        while not self.over.is_set():
            self.turn()

    def dismiss_keeper(self) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._keeper.wait(LINGER_S)

    def turn(self) -> None:
        raise NotImplementedError

    def awake_s(self) -> float:
        """Seconds since the last call, without those in which this process was stopped; notes idleness."""
        now = time.monotonic()
        seconds = min(now - self._last, 3 * self.interval_s)
        self._last = now
        moved, self._moves = PROGRESS.moves != self._moves, PROGRESS.moves
        before, self._computed_s = self._computed_s, time.process_time()
        computes = self._computed_s - before > COMPUTES_SHARE * seconds
        self._idle_s = 0.0 if moved else self._idle_s + seconds
        self._still_s = 0.0 if moved or computes else self._still_s + seconds
        return seconds

    def leave(self, verdict: Verdict, *, tells: bool) -> NoReturn:
        """End this process, whatever its main thread is doing, and ranks of this host that cannot."""
        if tells:
            os.write(2, line_of(verdict.code, verdict.message).encode())
        # on a dead file system writing waits for ever
        logging = threading.Thread(target=log, args=(verdict.message,), daemon=True)
        logging.start()
        logging.join(LINGER_S)
        others = [p for p in verdict.culprits if p != self._process and p.is_here()]
        if others:
            time.sleep(BEAT_S)
        for process in others:
            process.kill()
        self.dismiss_keeper()
        os._exit(verdict.code)


class _HubWatch(_Watch):
    """Rank 0's."""

    def __init__(self, address: str, token: str, *, timeout_s: float) -> None:
        super().__init__(timeout_s=timeout_s)
        self._peers: dict[int, Peer] = {}
        self._hub = Hub(address, token=token, heard=self.hear, lost=self.lose)
        self._verdict: Verdict | None = None

    @property
    def port(self) -> int:
        return self._hub.port

    def meet(self, beats: list[Beat], port: int, token: str) -> None:
        """These ranks are there."""
        self._peers = {beat.rank: Peer(beat) for beat in beats}

    def reaches_hub(self) -> bool:
        return True

    def hear(self, rank: int, message: Message) -> Message:
        beat = Beat.from_dict(message["beat"])
        if beat.rank != rank or rank not in self._peers:
            raise ValueError("no rank of this run")
        self._peers[rank] = Peer(beat)
        return self._answer()

    def lose(self, rank: int) -> None:
        self._peers[rank].lost_s = 0.0

    def _answer(self) -> Message:
        alive = [r for r, p in self._peers.items() if r and p.lost_s is None and p.silent_s < 3 * BEAT_S]
        verdict = None if self._verdict is None else self._verdict.to_dict()
        return {"beat": self.beat().to_dict(), "next": min(alive, default=1), "verdict": verdict}

    def turn(self) -> None:
        self._hub.serve(self.interval_s)
        seconds = self.awake_s()
        for peer in self._peers.values():
            peer.wait(seconds)
        self._peers[0] = Peer(self.beat())
        if self.ending is not None and not self.ending.alone:
            self._hub.push(self._answer())
            self._hub.close()
            self.over.set()
            return
        peers = [self._peers[rank] for rank in sorted(self._peers)]
        self._verdict = judge(peers, timeout_s=self.timeout_s, world=len(peers))
        if self._verdict is None:
            return
        self._hub.push(self._answer())
        until = time.monotonic() + LINGER_S
        os.write(2, line_of(self._verdict.code, self._verdict.message).encode())
        while self._hub.num_connected and time.monotonic() < until:
            self._hub.serve(0.1)
        self.leave(self._verdict, tells=False)


class _LineWatch(_Watch):
    """Every other rank's: tells rank 0 of itself and watches rank 0 alone."""

    def __init__(self, address: str, *, timeout_s: float) -> None:
        super().__init__(timeout_s=timeout_s)
        self._address, self._next = address, 1

    port = 0  # it does not listen

    def meet(self, beats: list[Beat], port: int, token: str) -> None:
        """This is where rank 0 listens, and what it expects."""
        self._hub, self._line, self._token = Peer(beats[0]), Line(self._address, port), token

    def reaches_hub(self) -> bool:
        try:
            return self._line.exchange(self._message(), within_s=REACHED_S) is not None
        except OSError:
            return False

    def _message(self) -> Message:
        return {"token": self._token, "rank": ranks.rank(), "beat": self.beat().to_dict()}

    def turn(self) -> None:
        ending = self.ending
        self.wake.clear()
        answer: Message | None = None
        try:
            answer = self._line.exchange(self._message(), within_s=self.interval_s)
        except OSError:
            if self._hub.lost_s is None:
                self._hub.lost_s = 0.0
        if answer is not None:
            self._take(answer)
        if self._is_over(ending, answered=answer is not None):
            self._line.close()
            self.over.set()
            return
        self.wake.wait(self.interval_s)
        self._hub.wait(self.awake_s())
        verdict = judge([self._hub], timeout_s=self.timeout_s, world=ranks.world_size())
        if verdict is not None:
            self.leave(verdict, tells=self._hub.beat.ending is None and self._tells())

    def _is_over(self, ending: Ending | None, *, answered: bool) -> bool:
        """Whether nothing is left to tell or to hear: this rank has said how it leaves, or rank 0 is done."""
        if ending is not None and not ending.alone:
            return answered or self._hub.lost_s is not None
        of_hub = self._hub.beat.ending
        return of_hub is not None and not of_hub.code

    def _take(self, answer: Message) -> None:
        self._hub = Peer(Beat.from_dict(answer["beat"]))
        self._next = answer["next"]
        if answer["verdict"] is not None:
            self.leave(Verdict.from_dict(answer["verdict"]), tells=False)

    def _tells(self) -> bool:
        if self._hub.beat.host == self._host:
            return self._next == ranks.rank()
        return ranks.local_rank() == 0


def log(text: str) -> Path | None:
    """Add to this rank's log file; None if there is none yet or it cannot be written."""
    if PROGRESS.log is None:
        return None
    try:
        with open(PROGRESS.log, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} the run ends: {text.rstrip()}\n")
    except OSError:
        return None
    return PROGRESS.log


_watch: _Watch | None = None


def start(timeout_min: float) -> None:
    """Watch the other ranks from now on; nothing in one process. Collective.

    Where ranks cannot reach rank 0's port (a firewall), a line says so and nothing is watched: collectives
    give up by themselves, later.

    Args:
        timeout_min: minutes after which a rank that is silent, or stands still while others wait for it,
            ends the run.
    """
    global _watch
    if ranks.world_size() == 1 or _watch is not None:
        return
    from csr.runtime import distributed  # torch; a command that only prints its help needs none

    timeout_s = 60.0 * timeout_min
    networks = distributed.all_gather_object(network())
    is_one_machine = len(set(networks)) == 1 and networks[0] != ""
    address = "127.0.0.1" if is_one_machine else os.environ["MASTER_ADDR"]
    token = secrets.token_hex(16)
    watch: _HubWatch | _LineWatch
    if ranks.is_main():
        watch = _HubWatch(address if is_one_machine else "", token, timeout_s=timeout_s)
    else:
        watch = _LineWatch(address, timeout_s=timeout_s)
    beats = distributed.all_gather_object(watch.beat())
    port, token = distributed.broadcast_object((watch.port, token))
    watch.meet(beats, port, token)
    _watch = watch
    if isinstance(watch, _HubWatch):
        watch.start()
    reached = distributed.all_gather_object(watch.reaches_hub())
    if all(reached):
        if isinstance(watch, _LineWatch):
            watch.start()
        return
    leave(EXIT_DONE, "nothing is watched")
    if ranks.is_main():
        cut = ", ".join(str(rank) for rank, ok in enumerate(reached) if not ok)
        sys.stderr.write(
            f"csr: notice: rank(s) {cut} cannot reach port {port} of {address} (a firewall?): a rank that "
            "is lost will be noticed late\n"
        )


def leave(code: int, message: str) -> None:
    """This rank leaves on what all ranks know, or its work is done: it is watched no longer."""
    global _watch
    if _watch is None:
        return
    _watch.ending = Ending(code, message, alone=False)
    _watch.wake.set()
    if _watch.is_alive():
        _watch.over.wait(2 * BEAT_S)
    _watch.dismiss_keeper()
    _watch = None


def fail(message: str, *, of_peer: bool) -> None:
    """This rank cannot go on: let rank 0 tell it and end all ranks. Returns only if that is not possible.

    Args:
        message: for the user.
        of_peer: a connection to another rank broke: if that rank is found to be lost, that is told instead.
    """
    if _watch is None:
        return
    if of_peer:
        time.sleep(EXPLAINED_S)  # the thread ends this process meanwhile
    _watch.ending = Ending(EXIT_FAILED, message, alone=True)
    _watch.wake.set()
    time.sleep(TOLD_S)
