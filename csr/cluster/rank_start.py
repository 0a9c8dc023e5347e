"""`python -m csr.cluster.rank_start WORD`: what the launcher starts as every rank.

Turns into `csr train` with its flags.

The flags come in one word of letters that no shell on the way can misread. Before that, what a rank on a host
needs: the network card that leads to the others, and an end when the launcher is gone.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import select
import signal
import sys

from csr.runtime.ranks import card_towards

PR_SET_PDEATHSIG = 1


def encode(flags: list[str]) -> str:
    """Return flags as one word of A-Z a-z 0-9 - _ =."""
    return base64.urlsafe_b64encode(json.dumps(flags).encode()).decode()


def decode(word: str) -> list[str]:
    """Return the flags of `encode`."""
    return [str(flag) for flag in json.loads(base64.urlsafe_b64decode(word))]


def end_with_parent(number: signal.Signals) -> None:
    """Get a signal when the process that started this one ends (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


def watch_output() -> None:
    """Ask this rank to stop when its output is no longer read: ssh, pdsh or the launcher is gone.

    ssh does not signal its end to a remote process. The watching child ends with the rank, even a killed one.
    """
    rank = os.getpid()
    if os.fork():
        return
    end_with_parent(signal.SIGKILL)
    poll = select.poll()
    poll.register(1, 0)  # errors and hang-ups are always reported
    while os.getppid() == rank:
        if poll.poll(1000):
            os.kill(rank, signal.SIGTERM)
            break
    os._exit(0)


def main() -> None:
    """Prepare the environment, then become `csr train`."""
    flags = decode(sys.argv[1])
    card = card_towards(os.environ["MASTER_ADDR"])
    if card is not None:
        # gloo takes the card of the host's own name, which Debian puts on loopback
        os.environ.setdefault("GLOO_SOCKET_IFNAME", card)
    end_with_parent(signal.SIGTERM)
    if os.environ.get("LOCAL_RANK") == "0":
        watch_output()
    os.execv(sys.executable, [sys.executable, "-u", "-m", "csr.train", *flags])


if __name__ == "__main__":
    main()
