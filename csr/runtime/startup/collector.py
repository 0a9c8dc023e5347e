"""Python's garbage collector, kept from walking through what imports have made: they leave no garbage.

Importing torch, timm and DeepSpeed makes about a million objects that live as long as the process.
Collections while they are made took a fifth of the time of the imports, and the last one, of an interpreter
that ends, more than a second.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Collect nothing in the block; afterwards as before. May be nested."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def sparing_present() -> Iterator[None]:
    """Let collections in the block pass over all objects that are there when it begins."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def leave_all() -> None:
    """Let the interpreter end without a search for cycles: the system takes back the memory anyway.

    What is registered with `atexit` is still called; open files are flushed, except one in a cycle.
    """
    gc.freeze()
    gc.disable()
