"""Definition of one option of `csr train`, a dataclass field, and the check of a value against it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import Any, NamedTuple

AUTO = -(2**63)  # of a number that is found by measuring; no user gives it by accident


class Range(NamedTuple):
    """Values that a number may have; infinity and NaN are in no range.

    Attributes:
        above, at_least: lower bound, without and with its own value.
        below, at_most: upper bound, without and with its own value.
        advice: what to give instead, where the bounds do not explain themselves.
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    advice: str | None = None

    def problem_of(self, value: float) -> str | None:
        """Return what to give in place of a value, or None if it is in the range."""
        too_small = (
            not math.isfinite(value)
            or (self.above is not None and value <= self.above)
            or (self.at_least is not None and value < self.at_least)
        )
        if too_small or (self.below is not None and value >= self.below):
            if self.advice is not None:
                return self.advice
            return (
                f"give a number above {self.above:g}"
                if self.at_least is None
                else f"give {self.at_least:g} or more"
            )
        if self.at_most is not None and value > self.at_most:
            return f"the largest is {self.at_most:g}"
        return None


def option(
    default: Any,
    meaning: str,
    *,
    choices: tuple[str, ...] | None = None,
    many: bool = False,
    auto: bool = False,
    alone: Any = None,
    **bounds: Any,
) -> Any:
    """Define one command-line flag: the field's name, its default, its meaning and its range.

    Args:
        default: value without the flag.
        meaning: help text.
        choices: words that it may be.
        many: it takes several words.
        auto: the word `auto` is taken for the number `AUTO`.
        alone: value of the flag without one.
        bounds: of a number, see `Range`.
    """
    allowed = Range(**bounds) if bounds else None
    metadata = {
        "help": meaning,
        "choices": choices,
        "many": many,
        "auto": auto,
        "alone": alone,
        "range": allowed,
    }
    return field(default=default, metadata=metadata)


def fields_of(group: Any) -> dict[str, dataclasses.Field[Any]]:
    """Return the options of a group by name."""
    return {f.name: f for f in dataclasses.fields(group)}


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "tuple[str, ...]": (list, tuple),
    "None": (type(None),),
}


def fits(value: Any, option: dataclasses.Field[Any]) -> bool:
    """Return whether a value is of the option's kind, and one of its choices where it has some."""
    kinds = str(option.type).split(" | ")
    if isinstance(value, bool) and "bool" not in kinds:
        return False  # True is an int to Python
    if not any(isinstance(value, _KINDS[kind]) for kind in kinds):
        return False
    if isinstance(value, list | tuple) and not all(isinstance(item, str) for item in value):
        return False
    choices = option.metadata["choices"]
    return value is None or choices is None or value in choices


def problem_of(value: Any, option: dataclasses.Field[Any]) -> str | None:
    """Return what to give in place of a value that fits its option, or None if it is in the range."""
    allowed = option.metadata["range"]
    if allowed is None or value is None or (value == AUTO and option.metadata["auto"]):
        return None
    return allowed.problem_of(value)
