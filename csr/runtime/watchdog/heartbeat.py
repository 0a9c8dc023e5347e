"""The messages of ranks about themselves, and the verdict on them: whether a run can continue.

Silence and standstill are counted by the one who waits, in time that it was awake itself: a run that was
suspended as a whole continues afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from csr.runtime.errors import EXIT_FAILED
from csr.runtime.progress import described
from csr.runtime.watchdog.processes import Process

GONE_S = 3.0  # a broken connection that does not come back within this was a process that ended
LEAVE_S = 15.0  # ranks that leave on what all know leave within this
SHOWN = 4


@dataclass(frozen=True)
class Ending:
    """The way in which a rank leaves.

    Attributes:
        code: its exit code.
        message: for the user.
        alone: only this rank knows of it: the others need not be waited for.
    """

    code: int
    message: str
    alone: bool


@dataclass(frozen=True)
class Beat:
    """The report of a rank on itself, about once a second.

    Attributes:
        rank, host, process: who it is.
        place: of `Progress.to_dict`.
        idle_s: seconds since its last move (`Progress`).
        still_s: those of them without any since it last computed. Waiting for a collective on a GPU, which
            takes a whole core, is no computing.
        ending: set once it leaves.
    """

    rank: int
    host: str
    process: Process
    place: dict[str, Any]
    idle_s: float
    still_s: float
    ending: Ending | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(record: dict[str, Any]) -> Beat:
        """Return the value of `to_dict`; KeyError or TypeError for anything else."""
        ending = None if record["ending"] is None else Ending(**record["ending"])
        return Beat(**{**record, "process": Process(**record["process"]), "ending": ending})


@dataclass
class Peer:
    """A rank as another one sees it.

    Attributes:
        beat: the last that was heard.
        silent_s: since then.
        lost_s: since its connection broke; None while it stands.
    """

    beat: Beat
    silent_s: float = 0.0
    lost_s: float | None = None

    def wait(self, seconds: float) -> None:
        self.silent_s += seconds
        if self.lost_s is not None:
            self.lost_s += seconds

    def is_gone(self) -> bool:
        """Return whether its process has ended without a message."""
        if self.beat.ending is not None or self.lost_s is None:
            return False
        process = self.beat.process
        return self.lost_s > GONE_S or (process.is_here() and not process.state())


@dataclass(frozen=True)
class Verdict:
    """Why a run ends.

    Attributes:
        code: exit code of all ranks.
        message: for the user, one line.
        culprits: processes that may be unable to end themselves.
    """

    code: int
    message: str
    culprits: tuple[Process, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(record: dict[str, Any]) -> Verdict:
        """Return the value of `to_dict`; KeyError or TypeError for anything else."""
        return Verdict(record["code"], record["message"], tuple(Process(**p) for p in record["culprits"]))


def last_resort_s(timeout_s: float) -> float:
    """Return the seconds after which collectives give up by themselves, should the watchdog not have ended
    the run.
    """
    return 3 * timeout_s + 60.0


def judge(peers: Sequence[Peer], *, timeout_s: float, world: int) -> Verdict | None:
    """Return why a run must end, or None.

    A rank failed, ended, is silent, or stands still while others wait for it.

    A rank that works on while others wait (it decodes images, evaluates, compiles) is not waited for too
    long as long as it moves on or at least computes; a rank that none is ahead of is waited for by none.
    Ranks that all stand still, none ahead, wait in collectives that cannot end: they are in different ones,
    or a link or a GPU fails.

    Args:
        peers: the ranks that are looked at.
        timeout_s: patience; with a rank that computes and reports no move `last_resort_s` of it.
        world: number of ranks.
    """
    for peer in peers:
        ending = peer.beat.ending
        if ending is not None and ending.code and (ending.alone or peer.silent_s > LEAVE_S):
            return Verdict(ending.code, ending.message)
    here = [p for p in peers if p.beat.ending is None]
    gone = [p for p in here if p.is_gone()]
    if gone:
        what = "has ended" if len(gone) == 1 else "have ended"
        return _verdict(gone, f"{what} without a word (killed, or out of memory?)", world)
    silent = [p for p in here if p.silent_s > timeout_s]
    if silent:
        what = "has been" if len(silent) == 1 else "have been"
        return _verdict(silent, f"{what} silent for {silent[0].silent_s:.0f} s", world)
    foremost = max((p.beat.place["joined"] for p in here), default=0)
    behind = [p for p in here if p.beat.place["joined"] < foremost]
    last_s = last_resort_s(timeout_s)
    stuck = [p for p in behind if p.beat.still_s > timeout_s or p.beat.idle_s > last_s]
    if stuck:
        what = "does" if len(stuck) == 1 else "do"
        reason = f"{what} not move on while others wait: nothing for {stuck[0].beat.idle_s:.0f} s"
        return _verdict(stuck, reason, world)
    # of the last resort NCCL would end the process without a line, a minute later
    stand = [p for p in here if p.beat.still_s > timeout_s or p.beat.idle_s > last_s]
    if len(stand) == world > 1:
        return _verdict(here, f"do not move on, none of them: nothing for {here[0].beat.idle_s:.0f} s", world)
    return None


def _verdict(peers: list[Peer], what: str, world: int) -> Verdict:
    first = peers[0]
    who = f"rank {first.beat.rank} of {world} on host {first.beat.host}"
    if len(peers) > 1:
        names = ", ".join(f"{p.beat.rank} on host {p.beat.host}" for p in peers[:SHOWN])
        more = f" and {len(peers) - SHOWN} more" if len(peers) > SHOWN else ""
        who = f"ranks {names}{more} (of {world})"
    ago = first.silent_s + first.beat.idle_s
    message = (
        f"{who} {what}; last seen {described(first.beat.place)}, {ago:.0f} s ago{_state_of(first)}: "
        f"look at that host and at logs/rank{first.beat.rank}-{first.beat.host}.log; "
        "the same command resumes from the last checkpoint"
    )
    return Verdict(EXIT_FAILED, message, tuple(p.beat.process for p in peers))


def _state_of(peer: Peer) -> str:
    process = peer.beat.process
    if process.is_here() and process.state() == "T":
        return f" (process {process.pid} is stopped)"
    return f" (process {process.pid})"
