"""Options out of a run's config.json, which is an untrusted file.

Checked by the kinds, choices and ranges of the flags.
"""

from __future__ import annotations

from typing import Any

from csr.config.checks import check_ranges
from csr.config.option_field import fields_of, fits
from csr.config.options import TrainConfig, groups
from csr.runtime.errors import InputError


def config_of(options: Any, *, where: str) -> TrainConfig:
    """Return the options of a run; what the file lacks has its default.

    Args:
        options: parsed JSON, by group.
        where: the file, named in messages.

    Raises:
        InputError: an unknown option, or a value of another type or out of range.
    """
    known = groups()
    if not isinstance(options, dict) or not set(options) <= set(known):
        raise InputError(f"{where}: 'options' are not those of `csr train`")
    built: dict[str, Any] = {}
    for name, values in options.items():
        fields = fields_of(known[name])
        unknown = sorted(set(values) - set(fields)) if isinstance(values, dict) else ["not an object"]
        if unknown:
            raise InputError(f"{where}: options of {name!r} are unknown: {', '.join(unknown)[:120]}")
        wrong = [key for key, value in values.items() if not fits(value, fields[key])]
        if wrong:
            raise InputError(f"{where}: option {wrong[0]!r} is {str(values[wrong[0]])[:40]!r}")
        built[name] = known[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    config = TrainConfig(**built)
    check_ranges(config)
    return config
