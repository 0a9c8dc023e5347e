"""Checks common to hostile inputs: one line that names it, code 2, nothing written over, no code run."""

from __future__ import annotations

import contextlib
import io
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_command import contents

from csr.cli.exit_codes import run_command
from csr.runtime.errors import InputError

HEADER = "image_id,rad_id,Cavity,Nodule,COPD,Pneumonia"
SECONDS = 60.0  # far above what any case takes: a case that hangs fails, a loaded machine does not
LINE = 6000  # twenty problems, each with a path


def refuse(
    call: Callable[[], object], *named: str, folder: Path | None = None, within: float = SECONDS
) -> str:
    """Run a call through the commands' error path and check what all refusals have in common.

    Args:
        call: must raise an InputError.
        named: words of the line.
        folder: must hold the same files afterwards.
        within: seconds.

    Returns:
        The line.
    """
    before = None if folder is None else contents(folder)
    out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), quiet():
        code = run_command(lambda argv: call() and None)
    errors = err.getvalue()
    assert code == 2, errors or out.getvalue() or "it was accepted"
    lines = errors.splitlines()
    assert len(lines) == 1 and lines[0].startswith("csr: error: "), errors
    assert len(lines[0]) <= LINE and "Traceback" not in errors, errors
    assert lines[0].isprintable(), ascii(lines[0])
    assert time.monotonic() - began < within
    for word in named:
        assert word in lines[0], (word, lines[0])
    if folder is not None:
        assert contents(folder) == before, "files were changed"
    return lines[0]


def survives(call: Callable[[], object]) -> bool:
    """Return whether a call succeeds; an InputError is the only other outcome."""
    try:
        with quiet():
            call()
    except InputError as error:
        assert str(error).strip(), "an error without words"
        return False
    return True


@contextlib.contextmanager
def quiet() -> Any:
    """Silence warnings as the commands do while they decode: warnings about a file are not the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def mutate(data: bytes, seed: int) -> bytes:
    """Return bytes with a few random changes: flipped, cut, doubled, swapped, zeroed, numbers blown up."""
    draw = random.Random(seed)
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        at = draw.randrange(len(changed))
        length = draw.choice((1, 2, 4, 16, 64))
        kind = draw.randrange(8)
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            changed[at : at + 4] = draw.choice(
                (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff")
            )
        elif kind == 5:
            changed[at : at + length] = bytes(length)
        elif kind == 6:
            changed[at:at] = draw.randbytes(length)
        else:
            del changed[at:]
    return bytes(changed)
