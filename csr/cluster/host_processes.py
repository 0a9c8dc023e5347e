"""`python -m csr.cluster.host_processes`: signal or end one run's processes on this host, asked over ssh.

A run is known by a random name in its processes' environment, never by what a command line looks like: other
runs of the same user are left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RUN = "CSR_RUN_ID"  # in the environment of all that a run starts
RANK = "RANK"  # of the ranks alone: the launcher sets it for them
SIGNALS = ("SIGTERM", "SIGUSR1")
POLL_S = 0.1


def of_run(run_id: str) -> dict[int, dict[str, str]]:
    """Return the living processes of a run on this host: {process id: its environment}."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # another user's, or just gone
            words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            environment = dict(word.split("=", 1) for word in words if "=" in word)
            if environment.get(RUN) == run_id:
                found[int(folder.name)] = environment
    return found


def parent_of(process: int) -> int | None:
    """Return the parent's id of a living process."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return None


def ranks_of(run_id: str) -> list[int]:
    """Return the ranks among a run's processes, not what they started themselves."""
    with_rank = {process for process, environment in of_run(run_id).items() if RANK in environment}
    return [process for process in with_rank if parent_of(process) not in with_rank]


def send(processes: list[int], number: int) -> int:
    """Signal processes; return how many were still there."""
    sent = 0
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
            sent += 1
    return sent


def end(run_id: str, grace_s: float) -> tuple[int, int]:
    """Ask a run's processes to end, then make them; stopped ones too.

    Args:
        run_id: of the run.
        grace_s: between SIGTERM and SIGKILL.

    Returns:
        How many were found, and how many are left (0, unless the kernel holds one).
    """
    found = list(of_run(run_id))
    if grace_s > 0:
        send(found, signal.SIGTERM)
        _wait(run_id, grace_s)
    # what was forked meanwhile as well
    send(list(of_run(run_id)), signal.SIGKILL)
    return len(found), _wait(run_id, 5.0)


def _wait(run_id: str, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while (left := len(of_run(run_id))) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def answer(request: dict[str, Any]) -> dict[str, int]:
    """Carry out a request: signal the ranks, or end all."""
    run_id, action = str(request["run"]), request["do"]
    if action == "signal" and request["signal"] in SIGNALS:
        return {"found": send(ranks_of(run_id), signal.Signals[request["signal"]])}
    if action == "end":
        ranks = len(ranks_of(run_id))
        found, left = end(run_id, float(request["grace_s"]))
        return {"ranks": ranks, "found": found, "left": left}
    raise ValueError(f"nothing that can be done: {request}")


def requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    for request in requests():
        sys.stdout.write(json.dumps(answer(request)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
