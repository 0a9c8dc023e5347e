"""What every command shares: a parser that raises, and errors turned into one line and an exit code."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from csr.runtime import distributed
from csr.runtime.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_PREEMPTED,
    InputError,
    PreemptedError,
    StoppedError,
    line_of,
)
from csr.runtime.progress import HERE, described
from csr.runtime.watchdog import watchdog

Main = Callable[["list[str] | None"], "int | None"]
RANK_0_SPEAKS_FIRST_S = 20.0
RANK_0_LEAVES_FIRST_S = 1.0


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are InputErrors, told once and not by every rank.

    Attributes:
        after_dashes: flags that another command reads, which stand after `--`.
        after_whom: that command.
    """

    after_dashes: frozenset[str] = frozenset()
    after_whom = ""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}{self._advice(message)} (`{self.prog} --help` lists the flags)")

    def _advice(self, message: str) -> str:
        """What may have been meant by the first flag that is not known."""
        if not message.startswith("unrecognized arguments: "):
            return ""
        words = [word.split("=")[0] for word in message.split()[2:] if word.startswith("-")]
        if self.after_dashes.intersection(words):
            return f": flags of {self.after_whom} stand after `--`"
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        return did_you_mean(words[0], known) if words else ""

    def print_help(self, file: object = None) -> None:
        if distributed.is_main():
            super().print_help(sys.stdout)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question with the nearest of some words, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {near[0]}?" if near else ""


class Whole:
    """Argparse type: a whole number in a range."""

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest, self.highest = lowest, highest

    def __call__(self, text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not self.lowest <= int(text) <= self.highest:
            raise argparse.ArgumentTypeError(f"{text}: from {self.lowest} to {self.highest}")
        return int(text)


def run_command(main: Main, argv: list[str] | None = None) -> int:
    """Call a command's main; return its exit code.

    0 done, 1 failed, 2 bad input, 75 stopped by a signal (the same command goes on), 130 interrupted.

    Rank 0 tells what all ranks know; an exception that nobody foresaw is told by the rank that met it.
    """
    try:
        return main(argv) or EXIT_DONE
    except InputError as error:
        return _tell(str(error), EXIT_BAD_INPUT)
    except StoppedError as error:
        return _tell(str(error), EXIT_FAILED)
    except PreemptedError as error:
        if distributed.is_main():
            return _tell(str(error), EXIT_PREEMPTED)
        watchdog.leave(EXIT_PREEMPTED, str(error))
        time.sleep(RANK_0_LEAVES_FIRST_S)  # all ranks agreed on it: it is told once, and soon
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        return _tell("interrupted", 130) if distributed.is_main() else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Of many ranks one line with the rank that failed; the traceback goes to that rank's log, if it has one.

    A peer may wait in a collective for this rank: it leaves without joining it.
    """
    many, trace = distributed.world_size() > 1, traceback.format_exc()
    of_peer = distributed.is_lost_peer(error)
    where = f" {described(HERE.to_dict())}" if HERE.moves else ""
    rank = f"rank {distributed.rank()} of {distributed.world_size()} on host {distributed.host()} "
    message = f"{rank if many else ''}failed{where}: {type(error).__name__}: {error}"
    log = watchdog.log(f"{type(error).__name__}: {error}" if of_peer else trace)
    if log is not None:
        message += f" ({'see' if of_peer else 'traceback in'} {log})"
    if not many or (log is None and not of_peer):
        sys.stderr.write(trace)
        sys.stderr.flush()
    watchdog.fail(message, of_peer=of_peer)
    sys.stderr.write(line_of(EXIT_FAILED, message))
    sys.stderr.flush()
    return EXIT_FAILED


def _tell(message: str, code: int) -> int:
    """One line from rank 0. A launcher ends all ranks when the first one leaves: the others give rank 0 time.

    A rank that is still there after that met what rank 0 did not (another host's disk), and tells it.
    """
    if not distributed.is_main():
        watchdog.leave(code, message)
        time.sleep(RANK_0_SPEAKS_FIRST_S)
    sys.stderr.write(line_of(code, message))
    sys.stderr.flush()
    return code


def exit_process(code: int) -> NoReturn:
    """Leave with a code. A failing rank does not wait for the others to tear the group down."""
    if code == EXIT_DONE:
        distributed.shut_down()
        watchdog.leave(code, "done")
        sys.exit(code)
    watchdog.leave(code, "rank 0 has left")
    sys.stdout.flush()
    sys.stderr.flush()
    if distributed.is_initialized():
        os._exit(code)
    sys.exit(code)
