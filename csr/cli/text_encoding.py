"""Text on machines without a UTF-8 locale: minimal images, batch systems. Files are UTF-8 everywhere."""

from __future__ import annotations

import io
import os
import sys


def print_any_text() -> None:
    """Let both streams write what their encoding lacks as escapes.

    A run of hours must not die of the accent in a label that it prints.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def ensure_utf8_names() -> None:
    """Start this process again in Python's UTF-8 mode if names of files have another encoding here.

    Call it before anything else: the ids of a table are UTF-8, and libraries encode paths as UTF-8 by
    themselves, which fails on names that were read in another encoding.
    """
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8") and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
