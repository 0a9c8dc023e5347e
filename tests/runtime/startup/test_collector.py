"""The garbage collector while packages are imported, during a run, and at the end of a process."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from csr.runtime.startup import collector


class Node:
    """An object in a cycle: only the collector frees it."""

    def __init__(self) -> None:
        self.own = self


def test_nothing_is_collected_in_a_pause_and_the_collector_is_on_again_afterwards():
    assert gc.isenabled()
    with collector.paused(), collector.paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), collector.paused():
        raise ImportError("of a package")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with collector.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_collections_pass_over_what_was_there_before_and_free_what_came_later():
    older = Node()
    watched = weakref.ref(older)
    with collector.sparing_present():
        newer = Node()
        watched_newer = weakref.ref(newer)
        del older, newer
        gc.collect()
        assert watched() is not None and watched_newer() is None
    gc.collect()
    assert watched() is None


LEFT = """
import atexit
from csr.cli.exit_codes import exit_process
atexit.register(lambda: print("atexit was called"))
kept = open("kept.txt", "w")
kept.write("flushed")
print("no newline", end=" ")
exit_process(0)
"""


def test_a_process_that_ends_still_calls_what_is_registered_and_flushes_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LEFT], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "no newline atexit was called\n"
    assert (tmp_path / "kept.txt").read_text() == "flushed"
