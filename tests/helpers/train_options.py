"""Options of `csr train` built from a few of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from csr.config.options import TrainConfig


def train_options(**changed: Any) -> TrainConfig:
    """Return the default options with some changed, whatever their groups."""
    built = TrainConfig()
    groups = {}
    for field in dataclasses.fields(built):
        group = getattr(built, field.name)
        names = {own.name for own in dataclasses.fields(group)} & set(changed)
        groups[field.name] = dataclasses.replace(group, **{name: changed[name] for name in names})
    return TrainConfig(**groups)
