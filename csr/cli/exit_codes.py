"""Errors of every command turned into one line and an exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from csr.cli.text_encoding import print_any_text
from csr.runtime import ranks
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
from csr.runtime.startup import collector, openmp
from csr.runtime.watchdog import watch, watchdog

Main = Callable[["list[str] | None"], "int | None"]
NO_GPU_MEMORY = (
    "nvidia-smi shows what fills it (a training?): give a smaller --batch_size, or set DS_ACCELERATOR=cpu, "
    "or CUDA_VISIBLE_DEVICES=1 for another GPU"
)
NO_CONTEXT = "CUDA error: out of memory"  # not even to start there
RANK_0_SPEAKS_FIRST_S = 20.0
RANK_0_LEAVES_FIRST_S = 1.0


def run_command(main: Main, argv: list[str] | None = None) -> int:
    """Call a command's main; return its exit code.

    0 done, 1 failed, 2 bad input, 75 stopped by a signal (the same command resumes), 130 interrupted.

    Rank 0 reports what all ranks know; an unforeseen exception is reported by the rank that met it.
    """
    print_any_text()
    openmp.wait_asleep()
    try:
        return main(argv) or EXIT_DONE
    except InputError as error:
        return _report(str(error), EXIT_BAD_INPUT)
    except StoppedError as error:
        return _report(str(error), EXIT_FAILED)
    except PreemptedError as error:
        if ranks.is_main():
            return _report(str(error), EXIT_PREEMPTED)
        watchdog.leave(EXIT_PREEMPTED, str(error))
        time.sleep(RANK_0_LEAVES_FIRST_S)  # all ranks agreed on it: one report, and soon
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        return _report("interrupted", 130) if ranks.is_main() else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _report("whatever read the output (as in `| head`) has closed it: stopped there", EXIT_FAILED)
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Print one line with the rank that failed; the traceback goes to that rank's log, if it has one.

    A peer may wait in a collective for this rank: it leaves without joining it.
    """
    many, trace = ranks.world_size() > 1, traceback.format_exc()
    is_full = type(error).__name__ == "OutOfMemoryError" or NO_CONTEXT in str(
        error
    )  # torch's: it may not be loaded
    if not many and is_full:
        first = str(error).splitlines()[0].split(". ")[0]
        return _report(f"{first}: {NO_GPU_MEMORY}", EXIT_FAILED)
    distributed = _collectives()
    of_peer = distributed is not None and distributed.is_lost_peer(error)
    where = f" {described(PROGRESS.to_dict())}" if PROGRESS.moves else ""
    rank = f"rank {ranks.rank()} of {ranks.world_size()} on host {ranks.host()} "
    message = f"{rank if many else ''}failed{where}: {type(error).__name__}: {error}"
    log = watch.log(f"{type(error).__name__}: {error}" if of_peer else trace)
    if log is not None:
        message += f" ({'see' if of_peer else 'traceback in'} {log})"
    if not many or (log is None and not of_peer):
        sys.stderr.write(trace)
        sys.stderr.flush()
    watchdog.fail(message, of_peer=of_peer)
    sys.stderr.write(line_of(EXIT_FAILED, message))
    sys.stderr.flush()
    return EXIT_FAILED


def _report(message: str, code: int) -> int:
    """Print one line from rank 0.

    A launcher ends all ranks when the first one leaves: the others give rank 0 time.

    A rank that is still there after that met what rank 0 did not (another host's disk), and reports it.
    """
    if not ranks.is_main():
        watchdog.leave(code, message)
        time.sleep(RANK_0_SPEAKS_FIRST_S)
    sys.stderr.write(line_of(code, message))
    sys.stderr.flush()
    return code


def _collectives() -> Any:
    """Return csr.runtime.distributed if this process has loaded it, and torch with it; else None."""
    return sys.modules.get("csr.runtime.distributed")


def exit_process(code: int) -> NoReturn:
    """Leave with a code. A failing rank does not wait for the others to tear the group down."""
    distributed = _collectives()
    collector.leave_all()
    if code == EXIT_DONE:
        if distributed is not None:
            distributed.shut_down()
        watchdog.leave(code, "done")
        sys.exit(code)
    watchdog.leave(code, "rank 0 has left")
    sys.stdout.flush()
    sys.stderr.flush()
    if distributed is not None and distributed.is_initialized():
        os._exit(code)
    sys.exit(code)
