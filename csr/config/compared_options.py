"""The options in which a run differs from an earlier one, as lines for its user."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from csr.config.options import TrainConfig

# options that move no weight and name no data: runs that differ in them alone are the same run
OF_NO_MATTER = frozenset(
    {
        *("workers", "image_cache", "cache_dir", "links_into", "timeout", "max_skipped"),
        *("output_dir", "exp_name", "overwrite", "resume", "recipe", "dry_run", "log_every", "save_every"),
        *("keep_checkpoints", "compile", "deterministic", "activation_checkpointing", "profile"),
        *("picture_every", "track"),
    }
)
Options = dict[str, dict[str, Any]]  # by group


def option_differences(earlier: Options, own: Options, *, may_differ: Collection[str]) -> list[str]:
    """Return a text for each option that differs, in the order of the options.

    Args:
        earlier: options of the earlier run; one that it did not know had its default.
        own: options of this run.
        may_differ: names that are not compared.
    """
    old = {**_flat(TrainConfig().to_dict()), **_flat(earlier)}
    new = _flat(own)
    return [
        difference(name, old[name], new[name])
        for name in new
        if name not in may_differ and old[name] != new[name]
    ]


def difference(name: str, was: Any, now: Any) -> str:
    """Return the text of one option that differs."""
    return f"--{name} was {_shown(was)}, now {_shown(now)}"


def _flat(options: Options) -> dict[str, Any]:
    plain = json.loads(json.dumps(options))  # tuples become lists, as in a file
    return {name: value for group in plain.values() for name, value in group.items()}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None or value is False else str(value)
