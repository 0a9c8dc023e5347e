"""`--progressive START:FULL`: stage 1 begins on smaller images, which grow to their full size."""

from __future__ import annotations

from typing import NamedTuple

from csr.runtime.errors import InputError

NONE = "none"


class Progressive(NamedTuple):
    """Shares, both between 0 and 1.

    Attributes:
        start: of the full side, at the first optimizer step of stage 1.
        full: of the optimizer steps of stage 1; the full side comes after them.
    """

    start: float
    full: float


def progressive(text: str) -> Progressive | None:
    """Return what the flag's word says; None for `none`.

    Raises:
        InputError: neither `none` nor two shares between 0 and 1.
    """
    if text == NONE:
        return None
    start, _, full = text.partition(":")
    try:
        value = Progressive(float(start), float(full))
    except ValueError:
        value = Progressive(0.0, 0.0)
    if not all(0 < share < 1 for share in value):
        raise InputError(
            f"--progressive {text[:40]}: give START:FULL, two shares between 0 and 1 such as 0.5:0.7 (half "
            "the side at first, the whole after 70 % of the steps), or none"
        )
    return value
