"""The options in which a run differs from an earlier one, as lines for its user."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from csr.config.options import TrainConfig

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
        f"--{name} was {_shown(old[name])}, now {_shown(new[name])}"
        for name in new
        if name not in may_differ and old[name] != new[name]
    ]


def _flat(options: Options) -> dict[str, Any]:
    plain = json.loads(json.dumps(options))  # tuples become lists, as in a file
    return {name: value for group in plain.values() for name, value in group.items()}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None or value is False else str(value)
