"""A tracker behind a thread: training never waits for it, and goes on without it when it fails."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from csr.training.trackers.record import Record
from csr.training.trackers.tracker import Tracker

Job = Callable[[Tracker], None]
MOST_WAITING = 10_000  # jobs; a tracker that is so far behind is left out
LOOK_AGAIN_S = 0.2


class Background:
    """Calls one tracker from a thread of its own, job by job.

    Args:
        name: of the tracker.
        make: makes it; its package is imported there.
        record: of its run.
        begin: first job, of a run that is gone on with too: what a kill lost is told again.
        warn: told once, in a line, why the tracker is left out.
        most_waiting: jobs that may wait.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Tracker],
        record: Record,
        *,
        begin: Job,
        warn: Callable[[str], None],
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self.name, self._make, self._record, self._begin, self._warn = name, make, record, begin, warn
        self._jobs: queue.Queue[Job | None] = queue.Queue(most_waiting)
        self._lock, self._is_out, self._moved = threading.Lock(), False, time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"csr-{name}", daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        """Let the tracker do a job when its turn comes; one that was left out does nothing more."""
        if self._is_out:
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._leave_out("it is too slow for this run")

    def add_step(self, series: str, step: int, job: Job) -> None:
        """Let the tracker do a job unless it did that of this series and step, in an earlier process too."""

        def once(tracker: Tracker) -> None:
            if self._record.is_new(series, step):
                job(tracker)
                self._record.sent(series, step)

        self.add(once)

    def close(self, exit_code: int, *, patience_s: float) -> None:
        """End the run in the tracker; wait for it as long as it moves on.

        Args:
            exit_code: of the run.
            patience_s: how long one job may take now.
        """
        self.add(lambda tracker: tracker.close(exit_code))
        self._end_thread()
        self._moved = max(self._moved, time.monotonic())
        while self._thread.is_alive() and not self._is_out:
            self._thread.join(LOOK_AGAIN_S)
            if time.monotonic() - self._moved > patience_s:
                self._leave_out(f"it did not answer for {patience_s:g} s at the end of the run")

    def _end_thread(self) -> None:
        if not self._is_out:
            try:
                self._jobs.put_nowait(None)
            except queue.Full:
                self._leave_out("it is too slow for this run")

    def _work(self) -> None:
        try:
            tracker = self._make()
            self._record.keep(tracker.open(self._record.id))
            self._begin(tracker)
            while not self._is_out:
                job = self._jobs.get()
                if job is None:
                    return
                job(tracker)
                self._moved = time.monotonic()
        except (Exception, SystemExit) as error:  # of a library, its server, its disk: none ends a run
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._leave_out(f"{type(error).__name__}: {first[:200]}")

    def _leave_out(self, reason: str) -> None:
        with self._lock:
            if self._is_out:
                return
            self._is_out = True
        self._warn(f"Notice: --track {self.name}: {reason}; the run goes on without it")
        while True:  # let go of pictures that wait, and wake the thread up
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        self._jobs.put_nowait(None)
