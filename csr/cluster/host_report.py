"""`python -m csr.cluster.host_report`.

One host's side of the check before a run, started over ssh by `csr doctor`.

Two requests and two answers, one JSON object a line: the first is answered at once (clock, addresses, the
master's port), the second when this host has found its facts, and what it can reach of the master. The master
listens until it hears nothing more.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

PORTS = range(20_000, 32_768)  # below those that Linux hands out by itself
CONNECT_S = 5.0
IS_MASTER, OUTPUT, PATHS, TOKEN = "master", "output_dir", "paths", "token"


def existing_parent(folder: str) -> Path:
    """Return the folder, or the nearest one above it that is there already."""
    path = Path(folder).absolute()
    return next((p for p in (path, *path.parents) if p.is_dir()), Path("/"))


def addresses() -> list[str]:
    """Return IPv4 addresses of this host's network cards, loopback left out."""
    cards = psutil.net_if_addrs().values()
    found = [a.address for card in cards for a in card if a.family == socket.AF_INET]
    return [address for address in found if not address.startswith("127.")]


def listen(port: int | None) -> socket.socket:
    """Return a socket on the master's port, on all addresses.

    Raises:
        OSError: it is in use, or not one of `PORTS` is free.
    """
    tried = [port] if port else random.sample(PORTS, 20)
    while True:
        chosen = tried.pop()
        try:
            return socket.create_server(("", chosen), backlog=1024)
        except OSError:
            if not tried:
                raise


def answer_callers(server: socket.socket, token: str) -> None:
    """Send every caller the token, so that no other service is taken for this one; ends with the process."""
    while True:
        with contextlib.suppress(OSError):
            caller, _ = server.accept()
            with caller:
                caller.sendall(token.encode())


def reaches(address: str, port: int, token: str) -> bool:
    """Return whether the master of this check answers there."""
    try:
        with socket.create_connection((address, port), timeout=CONNECT_S) as connection:
            connection.settimeout(CONNECT_S)
            return connection.makefile("rb").read(len(token)) == token.encode()
    except OSError:
        return False


@contextlib.contextmanager
def marked(folder: Path, token: str) -> Iterator[str | None]:
    """Keep a file that hosts which share this folder can see, while the block runs.

    Yield a problem or None.
    """
    mark = folder / f".csr-doctor-{token}"
    try:
        mark.touch()
    except OSError as error:
        yield f"{folder} cannot be written ({error.strerror})"
        return
    try:
        yield None
    finally:
        mark.unlink(missing_ok=True)


def serve(requests: Iterator[dict[str, Any]], reply: Any) -> None:
    """Give the two answers of this host."""
    first = next(requests)
    token, folder = first[TOKEN], existing_parent(first[OUTPUT])
    opening: dict[str, Any] = {"time": time.time(), "addresses": addresses(), "output": str(folder)}
    with contextlib.ExitStack() as stack:
        if first[IS_MASTER]:
            opening |= _open_as_master(first, folder, stack)
        reply(opening)
        from csr.cluster.machine_facts import (
            gather,  # torch takes seconds to import: the clock is reported before
        )

        facts = gather(first[PATHS], folder)
        second = next(requests, None)
        if second is None:
            return
        reached = [a for a in second["addresses"] if reaches(a, second["port"], token)]
        shares = (Path(second["output"]) / f".csr-doctor-{token}").exists()
        reply({**facts, "reached": reached, "shares_output": shares})
        for _ in requests:  # until the other side hangs up
            pass


def _open_as_master(first: dict[str, Any], folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    problem = stack.enter_context(marked(folder, first[TOKEN]))
    try:
        server = stack.enter_context(listen(first["port"]))
    except OSError as error:
        return {"port": None, "port_problem": error.strerror, "output_problem": problem}
    threading.Thread(target=answer_callers, args=(server, first[TOKEN]), daemon=True).start()
    return {"port": server.getsockname()[1], "output_problem": problem}


def main() -> None:
    """Speak JSON on standard input and output until the other side hangs up."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def reply(value: dict[str, Any]) -> None:
        channel.write(json.dumps(value) + "\n")

    with contextlib.suppress(BrokenPipeError):
        serve((json.loads(line) for line in sys.stdin), reply)


if __name__ == "__main__":
    main()
