"""The words of `--track`: where a run is written down."""

from __future__ import annotations

from csr.runtime.errors import InputError

TENSORBOARD, MLFLOW, WANDB = TRACKERS = ("tensorboard", "mlflow", "wandb")


def tracked(words: str) -> tuple[str, ...]:
    """Return the trackers that a run writes to, each once, in the order of the words.

    Args:
        words: names with commas between them.

    Raises:
        InputError: a name that is none, or none at all.
    """
    names = tuple(dict.fromkeys(word.strip() for word in words.split(",")))
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise InputError(
            f"--track {words}: {unknown[0]!r} is no tracker: give one or several of {','.join(TRACKERS)}"
        )
    return names
