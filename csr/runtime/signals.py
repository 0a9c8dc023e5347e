"""Signals that ask a run to stop: handlers set a flag, and the ranks agree on it between two steps.

Nothing is saved inside a handler: a step, a collective or a half-written file may be under way there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from csr.runtime import distributed
from csr.runtime.errors import InputError, PreemptedError, StoppedError

CAUGHT = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, n))
EXIT_INTERRUPTED = 128 + signal.SIGINT
AGREE_EVERY_S = 2.0
FORWARDED_WITHIN_S = 1.0  # a launcher repeats Ctrl-C to ranks that have it from the terminal already


class StopRequest:
    """The request that this run stop.

    In one process the flag is read at every step. Several ranks compare their flags about every
    `AGREE_EVERY_S` seconds, with one small reduction between hosts that waits for no device; how many steps
    that is they agree on in the same reduction.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._interrupts: list[float] = []
        self.restart()

    @property
    def requested(self) -> bool:
        """True if this rank was signalled; the others may not have been yet."""
        return self.signal_name is not None

    def restart(self) -> None:
        """Forget how long steps take: another kind of step begins. On all ranks at the same place."""
        self._calls, self._interval, self._since = 0, 1, time.monotonic()

    def due(self) -> bool:
        """Return whether all ranks are to stop here. Call it after every step, as often on each rank.

        Collective.
        """
        if distributed.world_size() == 1:
            return self.requested
        self._calls += 1
        if self._calls < self._interval:
            return False
        micros = int(1e6 * (time.monotonic() - self._since) / self._calls)
        stop, micros = distributed.host_max([int(self.requested), micros])
        wanted = int(1e6 * AGREE_EVERY_S / max(1, micros))
        self._interval = max(1, min(wanted, 2 * self._interval))
        self._calls, self._since = 0, time.monotonic()
        return bool(stop)

    def error(self, where: str) -> PreemptedError:
        """Return the error to raise at that place."""
        signal_name = self.signal_name or "a signal to another rank"
        return PreemptedError(f"{signal_name}: stopped {where}: run the same command again to resume")

    def check(self, where: str) -> None:
        """Raise if this rank was signalled. For work before training, that has nothing to save."""
        if self.requested:
            raise self.error(where)

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals while the block runs. Main thread only.

        A rank that leaves with an unforeseen error keeps ignoring the signals: a launcher sends them to all
        ranks as soon as one has ended, and this one has to report its error first. A foreseen error is known
        to all ranks, and reported by rank 0.
        """
        before = {number: signal.signal(number, self._note) for number in CAUGHT}
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read_end,), name="csr-signals", daemon=True).start()
        fails = True
        try:
            yield self
            fails = False
        except (InputError, StoppedError, PreemptedError):
            fails = False
            raise
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                told_to_end = number != signal.SIGINT and fails and distributed.world_size() > 1
                signal.signal(number, signal.SIG_IGN if told_to_end else handler)
            os.close(write_end)  # ends the thread

    def _note(self, number: int, frame: object) -> None:
        self.signal_name = signal.Signals(number).name

    def _watch(self, read_end: int) -> None:
        """Watch for signals while the main thread waits in C, where Python handlers do not run."""
        with os.fdopen(read_end, "rb", buffering=0) as numbers:
            while heard := numbers.read(1):
                if heard[0] in CAUGHT:
                    self._note(heard[0], None)
                if heard[0] == signal.SIGINT and self._is_second():
                    os._exit(EXIT_INTERRUPTED)

    def _is_second(self) -> bool:
        launched = "LOCAL_WORLD_SIZE" in os.environ or distributed.world_size() > 1
        self._interrupts.append(time.monotonic())
        apart = self._interrupts[-1] - self._interrupts[0]
        return len(self._interrupts) > 1 and apart > (FORWARDED_WITHIN_S if launched else 0.0)
