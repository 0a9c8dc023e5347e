"""`host slots=N` lines, read strictly.

Nothing that a shell or pdsh could understand otherwise gets through.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from csr.runtime.errors import InputError

# no option, no user@, no list, no pattern: pdsh would expand node[1-3], ssh would take -oX as an option
NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
LINE = re.compile(r"(?P<name>\S+)(?P<rest>.*)\Z", re.DOTALL)
SLOTS = re.compile(r"\s+slots=(?P<slots>\d{1,4})\Z")
MOST_SLOTS, MOST_HOSTS, MOST_BYTES = 1024, 1024, 1_000_000


class Host(NamedTuple):
    """One line: a name that ssh can reach, and how many ranks it gets."""

    name: str
    slots: int
    line: int


def read_hostfile(path: Path) -> list[Host]:
    """Return the hosts of a file, in order; the first one is the master.

    Empty lines and what follows a `#` are left out.

    Raises:
        InputError: no such file, or the first line that is no `host slots=N`, with its number.
    """
    hosts: list[Host] = []
    seen: dict[str, int] = {}
    for number, text in enumerate(_read(path).splitlines(), start=1):
        words = text.split("#", 1)[0].strip()
        if not words:
            continue
        where = f"{path}: line {number}"
        host = _parse(words, number, where)
        if host.name.lower() in seen:
            raise InputError(
                f"{where}: {host.name} is in line {seen[host.name.lower()]} already: give each host one line"
            )
        seen[host.name.lower()] = number
        hosts.append(host)
    if not hosts:
        raise InputError(f"{path}: names no host: write one per line, such as: node1 slots=4")
    if len(hosts) > MOST_HOSTS:
        raise InputError(f"{path}: {len(hosts)} hosts: at most {MOST_HOSTS} are supported")
    return hosts


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: longer than {MOST_BYTES} bytes: is it a hostfile?")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such hostfile: hostfiles/ has examples") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise InputError(f"{path}: cannot be read as a hostfile ({reason})") from None


def _parse(words: str, number: int, where: str) -> Host:
    """Parse one line without its comment."""
    line = LINE.match(words)
    assert line is not None
    name, slots = line["name"], SLOTS.match(line["rest"])
    if not NAME.match(name):
        raise InputError(
            f"{where}: {_shown(name)} is no host name: letters, digits, dots and dashes; what else ssh needs "
            "to know (user, address, key) belongs in ~/.ssh/config"
        )
    if slots is None or not 0 < int(slots["slots"]) <= MOST_SLOTS:
        raise InputError(
            f"{where}: {_shown(words)}: give the number of ranks, from 1 to {MOST_SLOTS}, such as: {name} "
            "slots=4"
        )
    return Host(name, int(slots["slots"]), number)


def _shown(text: str) -> str:
    """Return part of a file as ASCII, on one line, not for ever."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}..")
