"""The place of this process in a run, stage, epoch, step and activity.

Written by the loop, read by the watchdog.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Progress:
    """Plain numbers that a loop writes without cost: a step moves them, nothing is sent or timed here.

    As a context it is a place that all ranks pass together (a collective, a part of a training step).

    Attributes:
        stage, epoch, step: of training; no stage before it begins.
        doing: what is under way, if it is no training step.
        moves: grows whenever this process moves on.
        joined: places passed together with the other ranks; a rank with fewer is behind the others.
        log: this rank's log file, once there is one.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a command."""
        self.stage, self.epoch, self.step, self.doing = "", 0, 0, ""
        self.moves = self.joined = 0
        self.log: Path | None = None

    def at(self, stage: str, epoch: int, step: int) -> None:
        """Note that training has come to this step of an epoch."""
        self.stage, self.epoch, self.step = stage, epoch, step
        self.moves += 1

    def now(self, doing: str) -> None:
        """Note that something other than a training step moves on; an empty text ends it."""
        self.doing = doing
        self.moves += 1

    def along(self, items: Iterable[T], *, total: int, title: str) -> Iterator[T]:
        """Yield the items of a pass, each of them a move."""
        try:
            for number, item in enumerate(items, start=1):
                self.now(f"{title}, batch {number} of {total}")
                yield item
        finally:
            self.now("")

    def __enter__(self) -> Progress:
        self.joined += 1
        self.moves += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.moves += 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "epoch": self.epoch,
            "step": self.step,
            "doing": self.doing,
            "joined": self.joined,
        }


PROGRESS = Progress()


def described(place: dict[str, Any]) -> str:
    """Return a place (of `Progress.to_dict`) in words."""
    where = "before training"
    if place["stage"]:
        where = f"in the {place['stage']} stage, epoch {place['epoch']}, step {place['step']}"
    return f"{where} ({place['doing']})" if place["doing"] else where
