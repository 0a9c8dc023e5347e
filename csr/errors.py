"""The errors that csr raises on purpose, and the exit code that each becomes."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


class InputError(ValueError):
    """What the user gave cannot be used: one line that names the file, the row and the fix (exit 2)."""


class StoppedError(RuntimeError):
    """A run that started well and cannot go on: one line that says why (exit 1)."""
