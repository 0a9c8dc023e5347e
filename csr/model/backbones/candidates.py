"""Where in a file the weights of a backbone may be: dicts within it, and prefixes that all keys share.

Training frameworks wrap a network (`state_dict`, `teacher`, `model_ema`) and put its place in theirs before
every key (`model.backbone.`, `_orig_mod.`). A candidate is taken only if it fits completely.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

State = dict[str, torch.Tensor]
_DEPTH = 4  # dotted words of a prefix
_SHARE = 3  # a prefix has at least one key for three tensors of the backbone: files may fuse some
_MOST = 12


@dataclass(frozen=True, eq=False)
class Candidate:
    """One dict of a file, one prefix taken off.

    Attributes:
        wrapper: the keys that lead to the dict, '' for the file itself.
        prefix: what was taken off, '' for nothing.
        state: the tensors under the prefix.
        outside: keys of the dict that do not have the prefix.
        renaming: note on the table that renamed the keys, '' for none.
    """

    wrapper: str
    prefix: str
    state: State
    outside: tuple[str, ...] = ()
    renaming: str = ""

    @property
    def place(self) -> str:
        """Return its name in a message."""
        words = [f"{self.wrapper!r}"] if self.wrapper else []
        return ", ".join([*words, *([f"keys {self.prefix}*"] if self.prefix else [])]) or "the file itself"

    def equals(self, other: Candidate) -> bool:
        """Return whether both have the same tensors to the last bit."""
        return self.state.keys() == other.state.keys() and all(
            torch.equal(value, other.state[key]) for key, value in self.state.items()
        )


def with_prefixes_off(wrapper: str, state: State, *, num_tensors: int) -> Iterator[Candidate]:
    """Yield a dict as it is, then without each prefix that enough of its keys share, short ones first.

    Args:
        wrapper: the keys that lead to it.
        state: its tensors.
        num_tensors: tensors of the backbone.
    """
    yield Candidate(wrapper, "", state)
    counts: Counter[str] = Counter()
    for key in state:
        words = key.split(".")
        counts.update(".".join(words[:n]) + "." for n in range(1, min(_DEPTH, len(words) - 1) + 1))
    shared = [prefix for prefix, count in counts.items() if count * _SHARE >= num_tensors]
    for prefix in sorted(shared, key=lambda text: text.count("."))[:_MOST]:
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        yield Candidate(wrapper, prefix, inside, tuple(key for key in state if not key.startswith(prefix)))
