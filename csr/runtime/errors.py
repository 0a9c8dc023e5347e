"""The errors that csr raises on purpose, and the exit code that each becomes."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again


class InputError(ValueError):
    """Input that cannot be used: one line that names the file, the row and the fix (exit 2)."""


class TooLargeError(InputError):
    """An image of more bytes or pixels than are taken."""


class StoppedError(RuntimeError):
    """A run that started well and cannot continue: one line with the reason (exit 1)."""


class PreemptedError(RuntimeError):
    """A signal asked the run to stop; the same command resumes it (exit 75)."""


def line_of(code: int, message: str) -> str:
    """Return the line that a user reads of an ending.

    What names in strangers' files hold is shown and not obeyed: a terminal would take it for commands.
    """
    kind = "pre-empted" if code == EXIT_PREEMPTED else "error" if code else "done"
    line = " ".join(message.split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return f"csr: {kind}: {line}\n"
