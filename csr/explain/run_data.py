"""The data that a run names, from wherever a command is called; without torch, so that it answers at once.

Relative paths are looked for from here, then from where the run was started, which its own place tells:
`output_dir/exp_name` lies below it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csr.config.from_json import config_of
from csr.config.options import TrainConfig
from csr.config.typed_paths import DATA_PATHS, started_in
from csr.model.sharing.config_file import CONFIG, read_config
from csr.runtime.errors import InputError


def with_found_data(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return a run's options with relative paths of data that lead there from here, as far as they are found.

    Args:
        config: of the run.
        folder: of the run.
    """
    base = started_in(folder, config)
    found: dict[str, Any] = {}
    for name in DATA_PATHS:
        path = getattr(config.data, name)
        if base is None or path is None or os.path.exists(path):
            continue
        if (base / path).exists():
            found[name] = str(base / path)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **found))


def check_data(source: str, needed: Mapping[str, str]) -> None:
    """Raise InputError if data that a run names is not there, before anything slow begins.

    Args:
        source: folder of the run; what is no run is not checked.
        needed: option of the run -> flag that takes its place, of those that were not given.

    Raises:
        InputError: a file or folder is missing, or config.json is damaged.
    """
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        return
    content = read_config(folder / CONFIG)
    if "options" not in content:
        return
    config = with_found_data(config_of(content["options"], where=str(folder / CONFIG)), folder)
    for name, flag in needed.items():
        path = getattr(config.data, name)
        if path is not None and not os.path.exists(path):
            base = started_in(folder, config)
            places = "seen from here" + (
                "" if base is None else f" or from {base}, where the run was started"
            )
            raise InputError(f"{path}: no such file or folder, {places}: give it with {flag}")
