"""A command on another host: ssh without questions, JSON lines in and out, the reason of a failure in words.

No library does this: paramiko and its kin bring a client of their own, which reads neither all of the user's
~/.ssh/config nor its agent and jump hosts; pdsh, which DeepSpeed starts runs with, uses ssh itself.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import threading
from typing import Any

from csr.cluster.hostfile import NAME

CONNECT_S = 5
NO_FOLDER = 97  # exit code of our own, beside 126, 127 (the shell) and 255 (ssh)
SSH_FAILED = 255


class UnreachableError(RuntimeError):
    """A host that did not do what it was asked to: one line with the reason and the fix."""


def ssh_command(host: str, words: list[str], *, port: int | None, folder: str) -> list[str]:
    """Return the command that runs `words` in a folder of a host; the host's shell gets quoted words alone.

    Args:
        host: a name as `csr.cluster.hostfile` accepts it.
        words: the command.
        port: of ssh there; None leaves it to the user's ssh configuration.
        folder: to be in.
    """
    assert NAME.match(host), host
    remote = f"cd {shlex.quote(folder)} || exit {NO_FOLDER}; exec {shlex.join(words)}"
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-T", "-x"]
    return ["ssh", *options, *(["-p", str(port)] if port else []), host, remote]


class Conversation:
    """Talks with `python -m MODULE` on a host, one JSON object a line, for a limited time.

    Args:
        host: its name.
        module: of csr, or of the standard library.
        port: of ssh, None for the usual one.
        folder: to be in on the host: the present one, under the same path.
        limit_s: seconds after which the conversation is over.
    """

    def __init__(self, host: str, module: str, *, port: int | None, folder: str, limit_s: float) -> None:
        self.host, self.module, self._folder, self._limit_s = host, module, folder, limit_s
        self._errors = tempfile.TemporaryFile()
        command = ssh_command(host, [sys.executable, "-m", module], port=port, folder=folder)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError:
            self._errors.close()
            raise UnreachableError("there is no ssh on this machine: install openssh-client") from None
        self._timer = threading.Timer(limit_s, self._give_up)
        self._timer.daemon = True
        self._late = False
        self._timer.start()

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one object, wait for one.

        Raises:
            UnreachableError: there was no answer.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:  # ended already; its output has the reason
            pass
        for line in self._process.stdout:
            if line.startswith("{"):  # not a greeting of the host's shell
                try:
                    answer: dict[str, Any] = json.loads(line)
                except ValueError:
                    break
                return answer
        raise UnreachableError(self._why())

    def _why(self) -> str:
        if self._late:
            return f"did not answer within {self._limit_s:.0f} s: is it overloaded, or its disk gone?"
        if not self._ended():
            self._process.kill()
        self._errors.seek(0)
        lines = [
            line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()
        ]
        return reason(self.host, self._process.wait(), lines, folder=self._folder, module=self.module)

    def _ended(self) -> bool:
        """Return whether the process leaves by itself, now that it has closed its output."""
        try:
            self._process.wait(timeout=CONNECT_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End the conversation: the host's side ends when it hears nothing more."""
        self._timer.cancel()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # a broken pipe: the other side has gone before
                pass
        if not self._ended():
            self._process.kill()
            self._process.wait()
        self._errors.close()


def reason(host: str, code: int, lines: list[str], *, folder: str, module: str) -> str:
    """Return why a host did not answer, and what to do, from ssh's exit code and output."""
    last = ascii(lines[-1])[1:-1][:200] if lines else f"exit code {code}"
    if code == SSH_FAILED:
        return f"ssh fails ({last}): `ssh {host} true` must work without a question"
    if code == NO_FOLDER:
        return f"has no folder {folder}: the same paths must be on each host"
    if code in (126, 127):
        return f"has no {sys.executable}: the same virtual environment must be on each host"
    if any("No module named" in line for line in lines):
        return f"{sys.executable} there has no {module}: install the csr of this machine there"
    return f"csr fails there ({last})"
