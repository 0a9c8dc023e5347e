"""Argument parsing shared by all commands: a parser that raises, and types with ranges."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from csr.runtime import ranks
from csr.runtime.errors import InputError


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose complaints are InputErrors, reported once and not by every rank.

    Attributes:
        after_dashes: flags that another command reads, which stand after `--`.
        after_whom: that command.
    """

    after_dashes: frozenset[str] = frozenset()
    after_whom = ""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}{self._advice(message)} (`{self.prog} --help` lists the flags)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse as argparse does, and complain of unknown flags at once.

        The parser of a word such as `check` in `csr data check` would hand them to that of `csr data`, which
        knows none of its flags.
        """
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def _advice(self, message: str) -> str:
        """Return what may have been meant by the first unknown flag."""
        if not message.startswith("unrecognized arguments: "):
            return ""
        words = [word.split("=")[0] for word in message.split()[2:] if word.startswith("-")]
        if self.after_dashes.intersection(words):
            return f": flags of {self.after_whom} stand after `--`"
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        return did_you_mean(words[0], known) if words else ""

    def print_help(self, file: object = None) -> None:
        if ranks.is_main():
            super().print_help(sys.stdout)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the nearest of some words, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {near[0]}?" if near else ""


class Whole:
    """Argparse type: a whole number from `lowest` to `highest`."""

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest, self.highest = lowest, highest

    def __call__(self, text: str) -> int:
        is_short = len(text) <= len(str(self.highest)) + 8  # int() of a million digits takes minutes
        if not (
            text.isascii() and text.isdecimal() and is_short and self.lowest <= int(text) <= self.highest
        ):
            shown = text if len(text) <= 20 else f"{text[:20]}.."
            raise argparse.ArgumentTypeError(
                f"{shown!r}: give a whole number from {self.lowest} to {self.highest}"
            )
        return int(text)


class Number:
    """Argparse type: a number from `lowest` to `highest`; `above`: the lowest itself is too small."""

    def __init__(self, lowest: float, highest: float, *, above: bool = False) -> None:
        self.lowest, self.highest, self.above = lowest, highest, above

    def __call__(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not self.lowest <= value <= self.highest or (
            self.above and value == self.lowest
        ):  # NaN is in none
            first = "above" if self.above else "from"
            last = "up to" if self.above else "to"
            raise argparse.ArgumentTypeError(
                f"{text!r}: give a number {first} {self.lowest:g} {last} {self.highest:g}"
            )
        return value
