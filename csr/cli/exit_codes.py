"""What every command shares: a parser that raises, and errors turned into one line and an exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
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
from csr.runtime.progress import PROGRESS, described
from csr.runtime.watchdog import watchdog

Main = Callable[["list[str] | None"], "int | None"]
RANK_0_SPEAKS_FIRST_S = 20.0
RANK_0_LEAVES_FIRST_S = 1.0


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
    where = f" {described(PROGRESS.to_dict())}" if PROGRESS.moves else ""
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
