"""The watching thread of a rank: its beat, what it hears of the others, and the end of its process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from csr.runtime import ranks
from csr.runtime.errors import line_of
from csr.runtime.progress import PROGRESS
from csr.runtime.watchdog import keeper
from csr.runtime.watchdog.heartbeat import Beat, Ending, Peer, Verdict, judge
from csr.runtime.watchdog.hub import Hub, Line, Message
from csr.runtime.watchdog.processes import this_process

BEAT_S = 1.0

COMPUTES_SHARE = 0.05  # of a core: more than this thread and idle ones take

LINGER_S = 2.0  # rank 0 stays so long after its verdict, for the others to hear it

REACHED_S = 20.0  # a first answer comes within this, or never

KEEPER_LATER_S = 5.0  # the others had the time-out to report a stopped rank


def _never() -> bool:
    return False


class Watch(threading.Thread):
    """The common part of both kinds: this rank's beat, the time that it was awake, its end.

    Args:
        timeout_s: patience.
        waits_for_gpu: whether a GPU has not ended the last collective; a wait for it takes a core, and is
            no computing all the same.
    """

    def __init__(self, *, timeout_s: float, waits_for_gpu: Callable[[], bool] = _never) -> None:
        super().__init__(name="csr-watchdog", daemon=True)
        self._waits_for_gpu = waits_for_gpu
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
        """Return seconds since the last call, without those in which this process was stopped.

        Count idleness.
        """
        now = time.monotonic()
        seconds = min(now - self._last, 3 * self.interval_s)
        self._last = now
        moved, self._moves = PROGRESS.moves != self._moves, PROGRESS.moves
        before, self._computed_s = self._computed_s, time.process_time()
        computes = self._computed_s - before > COMPUTES_SHARE * seconds and not self._waits_for_gpu()
        self._idle_s = 0.0 if moved else self._idle_s + seconds
        self._still_s = 0.0 if moved or computes else self._still_s + seconds
        return seconds

    def leave(self, verdict: Verdict, *, reports: bool) -> NoReturn:
        """End this process, whatever its main thread is doing, and ranks of this host that cannot."""
        if reports:
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


class HubWatch(Watch):
    """The kind of rank 0: it hears all ranks and decides."""

    def __init__(
        self, address: str, token: str, *, timeout_s: float, waits_for_gpu: Callable[[], bool] = _never
    ) -> None:
        super().__init__(timeout_s=timeout_s, waits_for_gpu=waits_for_gpu)
        self._peers: dict[int, Peer] = {}
        self._hub = Hub(address, token=token, heard=self.hear, lost=self.lose)
        self._verdict: Verdict | None = None

    @property
    def port(self) -> int:
        return self._hub.port

    def meet(self, beats: list[Beat], port: int, token: str) -> None:
        """Take the first beats of all ranks."""
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
        self.leave(self._verdict, reports=False)


class LineWatch(Watch):
    """The kind of every other rank: it reports to rank 0, and watches rank 0 alone."""

    def __init__(self, address: str, *, timeout_s: float, waits_for_gpu: Callable[[], bool] = _never) -> None:
        super().__init__(timeout_s=timeout_s, waits_for_gpu=waits_for_gpu)
        self._address, self._next = address, 1

    port = 0  # it does not listen

    def meet(self, beats: list[Beat], port: int, token: str) -> None:
        """Take the place where rank 0 listens, and the token that it expects."""
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
            self.leave(verdict, reports=self._hub.beat.ending is None and self._reports())

    def _is_over(self, ending: Ending | None, *, answered: bool) -> bool:
        """Return whether nothing is left to report or to hear.

        This rank's ending has arrived, or rank 0 is done.
        """
        if ending is not None and not ending.alone:
            return answered or self._hub.lost_s is not None
        of_hub = self._hub.beat.ending
        return of_hub is not None and not of_hub.code

    def _take(self, answer: Message) -> None:
        self._hub = Peer(Beat.from_dict(answer["beat"]))
        self._next = answer["next"]
        if answer["verdict"] is not None:
            self.leave(Verdict.from_dict(answer["verdict"]), reports=False)

    def _reports(self) -> bool:
        if self._hub.beat.host == self._host:
            return self._next == ranks.rank()
        return ranks.local_rank() == 0


def log(text: str) -> Path | None:
    """Add to this rank's log file; None if there is none yet or it cannot be written."""
    if PROGRESS.log is None:
        return None
    try:
        with open(PROGRESS.log, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} the run ends: {text.rstrip()}\n")
    except OSError:
        return None
    return PROGRESS.log
