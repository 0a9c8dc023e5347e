"""Edits in words, for readers who have no page: what each step changed."""

from __future__ import annotations

from collections.abc import Sequence

from csr.serve.edits import MEDIAN
from csr.serve.schemas import Action, Box, Edits

_KINDS = {"positive": "look here", "negative": "not here"}
_DONE = {"open": "opened the image", "reset": "took back all edits"}


def step_in_words(action: Action, before: Edits | None, after: Edits) -> list[str]:
    """Return what a step did, one phrase a change.

    Args:
        action: of the step.
        before: edits in force before it; None: it is the first.
        after: edits in force after it.
    """
    if before is None or action in _DONE:
        return [_DONE.get(action, action)]
    changes = changes_in_words(before, after) or ["nothing that shows"]
    return [f"{action}: {one}" for one in changes] if action in ("undo", "redo") else changes


def changes_in_words(before: Edits, after: Edits) -> list[str]:
    """Return what differs between two states, one phrase a difference."""
    names = [*after.decisions, *(name for name in before.decisions if name not in after.decisions)]
    changes = []
    for name in names:
        was, now = before.decisions.get(name), after.decisions.get(name)
        if was != now:
            changes.append(f"took back: {name} {was}" if now is None else f"{now} {name}")
    changes += _regions(before.boxes, after.boxes)
    if before.alpha != after.alpha:
        changes.append(f"image outside the regions counts {after.alpha:.0%}, not {before.alpha:.0%}")
    if before.replacement != after.replacement:
        usual = (
            "what is usual without the finding" if after.replacement == MEDIAN else "zero, as in the paper"
        )
        changes.append(f"scores that do not count become {usual}")
    return changes


def _regions(before: Sequence[Box], after: Sequence[Box]) -> list[str]:
    gone = [(i, box) for i, box in enumerate(before) if box not in after]
    new = [(i, box) for i, box in enumerate(after) if box not in before]
    if len(before) == len(after) and [i for i, _ in gone] == [i for i, _ in new]:
        return [f"changed region {region_name(i, box)} to {region_in_words(box)}" for i, box in new]
    removed = [f"removed region {region_name(i, box)} ({region_in_words(box)})" for i, box in gone]
    return [*removed, *(f"drew region {region_name(i, box)}: {region_in_words(box)}" for i, box in new)]


def region_name(number: int, box: Box) -> str:
    """Return the name of a region as the page shows it: +1, -2."""
    return f"{'+' if box.kind == 'positive' else '-'}{number + 1}"


def region_in_words(box: Box) -> str:
    """Return kind and place of a region, and the one finding that it counts for."""
    tied = "" if box.concept is None else f", for {box.concept} alone"
    x = f"{box.x_min:.0%} to {box.x_max:.0%} from the left"
    return f"{_KINDS[box.kind]}, {x}, {box.y_min:.0%} to {box.y_max:.0%} from the top{tied}"
