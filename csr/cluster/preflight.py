"""The check of all hosts before a run: asked over ssh, all at the same time, in two rounds."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr.cluster.comparison import Checked, compare, meeting_place
from csr.cluster.hostfile import Host
from csr.cluster.ssh import Conversation, UnreachableError
from csr.runtime.errors import InputError

LIMIT_S = 120.0
AT_ONCE = 64
OPENING = {"time", "addresses", "output"}
FACTS = {
    "csr",
    "code",
    "torch",
    "deepspeed",
    "python",
    "gpus",
    "cores",
    "disk_mib",
    "data",
    "reached",
    "shares_output",
}


@dataclass(frozen=True)
class Preflight:
    """The outcome: the hosts in order, and where the ranks will meet (None where that failed)."""

    checked: list[Checked]
    master_addr: str | None
    master_port: int | None

    @property
    def lines(self) -> list[str]:
        """One for each host; if all are ready, one more on where they meet."""
        lines = [checked.line() for checked in self.checked]
        if not any(c.problems for c in self.checked):
            master = self.checked[0].host.name
            lines.append(f"all reach {master} at {self.master_addr} port {self.master_port}")
        return lines

    def require_ready(self) -> None:
        """Raise InputError if a host has a problem."""
        failed = [c.host.name for c in self.checked if c.problems]
        if failed:
            raise InputError(
                f"{len(failed)} of {len(self.checked)} host(s) are not ready: {', '.join(failed)}"
            )

    @property
    def on_gpus(self) -> bool:
        return all(c.facts is not None and bool(c.facts["gpus"]) for c in self.checked)


def check_hosts(
    hosts: list[Host],
    *,
    paths: dict[str, str],
    output_dir: str,
    ssh_port: int | None = None,
    master_addr: str | None = None,
    master_port: int | None = None,
) -> Preflight:
    """Ask all hosts and compare their answers.

    Args:
        hosts: of the hostfile; the first one is the master.
        paths: data by the name of its flag, see `csr.cluster.machine_facts.gather`.
        output_dir: where the run will write; all hosts must see the same folder.
        ssh_port: None for the one that ssh is configured for.
        master_addr: address of the first host; None takes the first one that all hosts reach.
        master_port: None takes a free one.

    Returns:
        Every host with its problems; nothing is raised for them.
    """
    token = secrets.token_hex(8)
    checked = [Checked(host) for host in hosts]
    talks: dict[str, Conversation] = {}

    def open_one(one: Checked) -> None:
        talk = Conversation(
            one.host.name, "csr.cluster.host_report", port=ssh_port, folder=os.getcwd(), limit_s=LIMIT_S
        )
        talks[one.host.name] = talk
        request: dict[str, Any] = {"token": token, "output_dir": output_dir, "paths": paths}
        is_master = one is checked[0]
        request |= {"master": is_master, "port": master_port if is_master else None}
        one.opening = _with(OPENING, talk.ask(request))
        one.clock_s = one.opening["time"] - time.time()

    def finish_one(one: Checked) -> None:
        if one.opening is not None:
            one.facts = _with(FACTS, talks[one.host.name].ask(second))

    try:
        _for_all(checked, open_one)
        first = checked[0].opening or {"addresses": [], "port": None, "output": "/"}
        candidates = [master_addr] if master_addr else first["addresses"]
        second = {
            "addresses": candidates if first["port"] else [],
            "port": first["port"],
            "output": first["output"],
        }
        _for_all(checked, finish_one)
    finally:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Conversation.close, talks.values()))
    compare(checked)
    address = meeting_place(checked, candidates)
    return Preflight(checked, address, first["port"])


def _with(keys: set[str], answer: dict[str, Any]) -> dict[str, Any]:
    if not keys <= set(answer):
        raise UnreachableError(
            "has another version of csr, whose answers are others: install that of this machine"
        )
    return answer


def _for_all(checked: list[Checked], ask: Callable[[Checked], None]) -> None:
    """Ask every host at the same time; one that does not answer gets a problem."""

    def guarded(one: Checked) -> None:
        try:
            ask(one)
        except UnreachableError as error:
            one.problems.append(str(error))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(guarded, checked))


def paths_of(given: dict[str, str | None]) -> dict[str, str]:
    """Return the paths that were given, as the hosts will be asked for them.

    Relative ones from this folder.
    """
    return {name: str(Path(value)) for name, value in given.items() if value is not None}
