"""The watch over lost ranks: a thread of each rank reports to rank 0, and ends the process if one is lost.

The main thread of a rank that waits in a collective hears nothing, so the thread reports and leaves for it.
Rank 0 hears all ranks and decides; the others watch rank 0. The user reads one line, from rank 0 or, where
rank 0 is the one that is lost, from the first rank left on each host.

| a rank is | because | the run ends |
|---|---|---|
| gone | its connection broke and its process has ended | within seconds |
| silent | nothing is heard of it: stopped, its host down, the link cut | after the time-out |
| still | others wait for it in a collective, it neither moves on nor computes | after the time-out |
| idle | others wait, it computes but reports no move | after three time-outs and a minute |
| all | all ranks are still, none is ahead of another: collectives that cannot end | after the time-out |
| lost | any of these, as rank 0 decided | on all ranks, with exit code 1 |

A rank that waits for a GPU spins. Where its last collective has not ended on the GPU that is standing still,
and not computing.

No library does this: NCCL and gloo only give up on a collective, each by itself, without a name; torchrun's
agents and elastic training see processes and not standstills.
"""

from __future__ import annotations

import os
import secrets
import sys
import time

from csr.runtime import ranks
from csr.runtime.errors import EXIT_DONE, EXIT_FAILED
from csr.runtime.watchdog.heartbeat import Ending
from csr.runtime.watchdog.processes import network
from csr.runtime.watchdog.watch import BEAT_S, HubWatch, LineWatch, Watch

REPORTED_S = 10.0  # a failing rank gives rank 0 so long to print its report
EXPLAINED_S = 15.0  # a broken connection to a peer is explained within this

_watch: Watch | None = None


def start(timeout_min: float) -> None:
    """Watch the other ranks from now on; nothing in one process. Collective.

    Where ranks cannot reach rank 0's port (a firewall), a line is printed and nothing is watched: collectives
    give up by themselves, later.

    Args:
        timeout_min: minutes after which a rank that is silent, or stands still while others wait for it,
            ends the run.
    """
    global _watch
    if ranks.world_size() == 1 or _watch is not None:
        return
    from csr.runtime import distributed  # torch; a command that only prints its help needs none
    from csr.runtime.collective_time import IN_COLLECTIVES

    timeout_s = 60.0 * timeout_min
    networks = distributed.all_gather_object(network())
    is_one_machine = len(set(networks)) == 1 and networks[0] != ""
    address = "127.0.0.1" if is_one_machine else os.environ["MASTER_ADDR"]
    token = secrets.token_hex(16)
    watch: HubWatch | LineWatch
    if ranks.is_main():
        watch = HubWatch(
            address if is_one_machine else "",
            token,
            timeout_s=timeout_s,
            waits_for_gpu=IN_COLLECTIVES.is_pending,
        )
    else:
        watch = LineWatch(address, timeout_s=timeout_s, waits_for_gpu=IN_COLLECTIVES.is_pending)
    beats = distributed.all_gather_object(watch.beat())
    port, token = distributed.broadcast_object((watch.port, token))
    watch.meet(beats, port, token)
    _watch = watch
    if isinstance(watch, HubWatch):
        watch.start()
    reached = distributed.all_gather_object(watch.reaches_hub())
    if all(reached):
        if isinstance(watch, LineWatch):
            watch.start()
        return
    leave(EXIT_DONE, "nothing is watched")
    if ranks.is_main():
        cut = ", ".join(str(rank) for rank, ok in enumerate(reached) if not ok)
        sys.stderr.write(
            f"csr: notice: rank(s) {cut} cannot reach port {port} of {address} (a firewall?): a rank that "
            "is lost will be noticed late\n"
        )


def leave(code: int, message: str) -> None:
    """Stop watching this rank: it leaves on what all ranks know, or its work is done."""
    global _watch
    if _watch is None:
        return
    _watch.ending = Ending(code, message, alone=False)
    _watch.wake.set()
    if _watch.is_alive():
        _watch.over.wait(2 * BEAT_S)
    _watch.dismiss_keeper()
    _watch = None


def fail(message: str, *, of_peer: bool) -> None:
    """Let rank 0 report this rank's failure and end all ranks. Returns only if that is not possible.

    Args:
        message: for the user.
        of_peer: a connection to another rank broke: if that rank is found to be lost, that is reported
            instead.
    """
    if _watch is None:
        return
    if of_peer:
        time.sleep(EXPLAINED_S)  # the thread ends this process meanwhile
    _watch.ending = Ending(EXIT_FAILED, message, alone=True)
    _watch.wake.set()
    time.sleep(REPORTED_S)
