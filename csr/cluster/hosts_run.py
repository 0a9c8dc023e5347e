"""A run on several hosts under `deepspeed` and pdsh, from its start until no process of it is left on any
host.

What the launcher alone would not do: notice that one host has ended while another hangs or is stopped, pass
signals on to the ranks instead of killing them, distinguish a lost run from one that is done, and clean up
by the run's name (DeepSpeed does it with `pkill -f`, which ends other runs of the same user).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from csr.cluster.handled_signals import handled
from csr.cluster.hostfile import Host
from csr.cluster.ssh import Conversation, UnreachableError
from csr.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED

ENDED = re.compile(rb"pdsh@\S+: (?P<host>\S+): ssh exited with exit code (?P<code>\d+)")
# a rank that is not listening yet answers SIGINT with a traceback, SIGTERM with silence
FORWARDED = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
}
UNHEARD = {256 - number for number in FORWARDED.values()}  # exit codes of hosts whose rank one of them killed
OTHERS_END_S = 20.0  # the other hosts' time to report, once one has failed
OTHERS_SAVE_S = 300.0  # and to save, once one has left because of a signal
GRACE_S = 10.0
LAUNCHER_ENDS_S = 15.0
LIMIT_S = 60.0
POLL_S = 0.2
EXIT_INTERRUPTED = 128 + signal.SIGINT
SSH_LOST = 255
Report = Callable[[str], None]


def keep_alive(timeout_s: float) -> str:
    """Return options that make ssh notice a cut link, not before the ranks themselves give up."""
    interval = max(1, round(min(15.0, timeout_s / 4)))
    count = max(3, round(timeout_s / interval))
    return f"-o BatchMode=yes -o ServerAliveInterval={interval} -o ServerAliveCountMax={count}"


class HostsRun:
    """One launch.

    Args:
        command: of the `deepspeed` launcher.
        environment: of that command.
        hosts: of the run.
        run_id: what the run's processes carry in their environment.
        ssh_port: None for ssh's own.
        report: prints a line to the user.
    """

    def __init__(
        self,
        command: list[str],
        *,
        environment: Mapping[str, str],
        hosts: list[Host],
        run_id: str,
        ssh_port: int | None,
        report: Report,
    ) -> None:
        self._command, self._environment, self._hosts, self._run_id = command, environment, hosts, run_id
        self._ssh_port, self._report = ssh_port, report
        self.codes: dict[str, int] = {}  # of hosts that ended with another code than 0
        self._first_end: float | None = None
        self._signals: list[int] = []
        self._stopped_early = False

    def run(self) -> int:
        """Start the run, wait for it, clean up. Main thread only.

        Returns:
            0 done, 1 failed, 2 bad input, 75 stopped by a signal on all hosts, 130 interrupted twice.
        """
        with handled(FORWARDED, self._note):
            # a session of its own: Ctrl-C reaches the ranks through us, and DeepSpeed does not answer it
            process = subprocess.Popen(
                self._command, env=dict(self._environment), stderr=subprocess.PIPE, start_new_session=True
            )
            assert process.stderr is not None
            pump = threading.Thread(target=self._pass_on, args=(process.stderr,), daemon=True)
            pump.start()
            try:
                code = self._wait(process)
            finally:
                self._end_launcher(process)
            pump.join(timeout=5.0)
            return self._clean_up(code)

    def _note(self, number: int, frame: object) -> None:
        self._signals.append(number)

    def _pass_on(self, errors: IO[bytes]) -> None:
        """Copy the hosts' output to standard error, and note those that end."""
        for line in errors:
            with contextlib.suppress(OSError):  # the terminal is gone: hosts that cannot write would wait
                sys.stderr.buffer.write(line)
                sys.stderr.flush()
            ended = ENDED.match(line)
            if ended:
                self.codes[ended["host"].decode(errors="replace")] = int(ended["code"])
                self._first_end = self._first_end or time.monotonic()

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until the launcher ends by itself, or has to be ended.

        Return its exit code, or that of a second Ctrl-C.
        """
        passed_on = 0
        while process.poll() is None:
            time.sleep(POLL_S)
            if len(self._signals) > passed_on:
                if signal.SIGINT in self._signals[:passed_on] and self._signals[passed_on] == signal.SIGINT:
                    self._end_hosts(grace_s=0.0)
                    return EXIT_INTERRUPTED
                self._forward(self._signals[passed_on])
                passed_on += 1
            if self._stopped_early:
                break
            if self._is_overdue():
                still = [h.name for h in self._hosts if h.name not in self.codes]
                self._report(
                    f"{self._codes_passed_on()}: ending what is left on {', '.join(still) or 'the hosts'}"
                )
                self._end_hosts(grace_s=GRACE_S)
                self._await(process, LAUNCHER_ENDS_S)
                break
        return process.poll() or EXIT_DONE

    def _is_overdue(self) -> bool:
        """Return whether a host ended badly so long ago that the others will not end by themselves."""
        codes = set(self.codes.values())
        patience = (
            OTHERS_SAVE_S if codes == {EXIT_PREEMPTED} else 0.0 if self._was_unheard() else OTHERS_END_S
        )
        return self._first_end is not None and time.monotonic() - self._first_end > patience

    def _was_unheard(self) -> bool:
        """Return whether a signal that was passed on ended a rank.

        It was starting, or leaving, and not listening.
        """
        return bool(self._signals and UNHEARD & set(self.codes.values()))

    def _await(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass  # ssh to a host that is gone; it is ended by its process group

    def _end_launcher(self, process: subprocess.Popen[bytes]) -> None:
        """End the launcher, pdsh and ssh on this machine; not by a signal that DeepSpeed would answer."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def _forward(self, number: int) -> None:
        """Signal the ranks of one host.

        All ranks agree on it, and a second one could come when they leave.
        """
        received, forwarded = signal.Signals(number), FORWARDED[signal.Signals(number)]
        for host in self._hosts:
            answer = self._ask_one(host, {"do": "signal", "signal": forwarded.name})
            if answer is not None and answer["found"]:
                self._report(f"{received.name}: the ranks are asked to save and stop")
                return
        self._report(f"{received.name}: no rank is running yet: ending the run")
        self._stopped_early = True

    def _end_hosts(self, *, grace_s: float) -> int:
        """End the run's processes on every host; returns how many ranks were among them."""
        answers = self._ask({"do": "end", "grace_s": grace_s})
        for host, answer in answers.items():
            if answer is None:
                self._report(f"{host} cannot be reached: what runs there ends by itself after --timeout")
            elif answer["left"]:
                self._report(f"{host}: {answer['left']} process(es) of this run cannot be ended")
        return sum(answer["ranks"] for answer in answers.values() if answer is not None)

    def _ask(self, request: dict[str, Any]) -> dict[str, dict[str, int] | None]:
        """Ask all hosts at once; None for one that does not answer."""
        with ThreadPoolExecutor(64) as pool:
            answers = pool.map(lambda host: self._ask_one(host, request), self._hosts)
            return dict(zip((h.name for h in self._hosts), answers, strict=True))

    def _ask_one(self, host: Host, request: dict[str, Any]) -> dict[str, int] | None:
        try:
            talk = Conversation(
                host.name,
                "csr.cluster.host_processes",
                port=self._ssh_port,
                folder=os.getcwd(),
                limit_s=LIMIT_S,
            )
        except UnreachableError:
            return None
        try:
            return talk.ask({**request, "run": self._run_id})
        except UnreachableError:
            return None
        finally:
            talk.close()

    def _clean_up(self, code: int) -> int:
        """Leave nothing behind; the run's exit code."""
        if code == EXIT_INTERRUPTED:
            return code
        ranks = self._end_hosts(grace_s=GRACE_S)
        if self._stopped_early or self._was_unheard():
            self._report("stopped while no rank could save: run the same command again")
            return EXIT_PREEMPTED
        if code == EXIT_DONE and not self.codes:
            # DeepSpeed exits with 0 where pdsh was killed
            return EXIT_FAILED if ranks else EXIT_DONE
        return self.outcome(code)

    def outcome(self, code: int) -> int:
        """Return the exit code of the run from all hosts' codes.

        Args:
            code: of the launcher, which is only the largest of the ranks' codes.
        """
        codes = set(self.codes.values()) or {code}
        for shared in (EXIT_BAD_INPUT, EXIT_PREEMPTED, EXIT_INTERRUPTED):
            if codes == {shared}:
                return shared
        return EXIT_FAILED

    def _codes_passed_on(self) -> str:
        return ", ".join(f"{host} ended with {meaning_of(code)}" for host, code in self.codes.items())

    def why(self) -> str:
        """Return what is known of a failed run."""
        return self._codes_passed_on() or "the launcher was lost"


def meaning_of(code: int) -> str:
    """Return an exit code as a host's shell and the launcher there give it."""
    if code == SSH_LOST:
        return "255 (ssh lost it)"
    if 128 < code < 128 + 65:
        return f"{code} ({_signal_name(code - 128)})"
    if 256 - 65 < code < 256:  # the launcher passes the negative code of a killed rank on
        return f"{code} (a rank was killed by {_signal_name(256 - code)})"
    return str(code)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
