"""The runs of a sweep one after another, each a process of its own that signals are passed on to."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from csr.cluster.grid import SweepRun
from csr.cluster.handled_signals import handled
from csr.runtime.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED, InputError, PreemptedError, StoppedError

PASSED_ON = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)


def command_of(ranks: int) -> list[str]:
    """Return the words that start csr train on so many processes of this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [sys.executable, *(launcher if ranks > 1 else []), "-m", "csr.train"]


def run_all(
    runs: Sequence[SweepRun], flags: Sequence[str], *, command: Sequence[str], report: Callable[[str], object]
) -> None:
    """Run what is not done yet, in order, until one fails or a signal asks to stop.

    Args:
        runs: of the sweep.
        flags: common to all runs.
        command: words before the flags.
        report: called with a line before each run.

    Raises:
        InputError: a run found its input bad; the run itself has said what.
        PreemptedError: a signal; the same command goes on with the run that it stopped.
        StoppedError: a run failed.
    """
    current = _Current()
    with handled(PASSED_ON, current.pass_on):
        for number, run in enumerate(runs, start=1):
            if run.state() == "done":
                report(f"=== Run {number} of {len(runs)}: {run.name} is done ===")
                continue
            report(f"=== Run {number} of {len(runs)}: {run.name} ===")
            code = current.run([*command, *flags, *run.words])
            _check(code, run, current.heard)


def _check(code: int, run: SweepRun, heard: str | None) -> None:
    """Raise the error that ends the sweep, if the run's exit code or a signal asks for it."""
    if code == EXIT_PREEMPTED or heard is not None:
        raise PreemptedError(
            f"{heard or 'a signal'}: stopped at {run.name}: run the same command again to go on there"
        )
    then = "the runs behind it were not started; the same command goes on there"
    if code == EXIT_BAD_INPUT:
        raise InputError(f"{run.config.folder}: the run refused its input, see the line above: {then}")
    if code:
        raise StoppedError(f"{run.config.folder}: the run ended with exit code {code}, see above: {then}")


class _Current:
    """The run that is under way.

    Attributes:
        heard: name of the first signal, or None.
    """

    def __init__(self) -> None:
        self.heard: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, words: Sequence[str]) -> int:
        """Run a command in a session of its own, so that Ctrl-C comes once; return its exit code."""
        self._process = subprocess.Popen(words, start_new_session=True)
        if self.heard is not None:  # in between two runs
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait()
        finally:
            self._process = None

    def pass_on(self, number: int, frame: object) -> None:
        """Pass a signal on; what is no Ctrl-C as SIGTERM, the request to save and stop.

        torchrun passes SIGTERM on to its ranks; SIGUSR1 would end it alone.
        """
        self.heard = self.heard or signal.Signals(number).name
        if self._process is not None:
            self._process.send_signal(number if number == signal.SIGINT else signal.SIGTERM)
