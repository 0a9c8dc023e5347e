"""What a tracker does, and whether its package is here. The packages are imported only where one is asked."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from csr.config.trackers import MLFLOW, TENSORBOARD, WANDB
from csr.runtime.errors import InputError

Scalar = int | float | str | bool
# a server that does not answer is given up in seconds, and nothing is reported to a library's makers
SETTINGS = {
    TENSORBOARD: {},
    MLFLOW: {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    },
    WANDB: {"WANDB_ERROR_REPORTING": "false"},
}


class Tracker(Protocol):
    """One run in one tracker. Called by one thread, in the order of the methods; each may raise anything."""

    def open(self, kept: str | None) -> str:
        """Begin a run, or go on in the one whose id was kept; return its id."""

    def describe(self, options: Mapping[str, Scalar], facts: Mapping[str, Scalar]) -> None:
        """Write the options of a run, and facts about it, as far as they are not there yet."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Write finite numbers by tag."""

    def picture(self, tag: str, image_HW3: np.ndarray, *, step: int) -> None:
        """Write a picture, uint8."""

    def files(self, folder: Path) -> None:
        """Keep copies of a folder's files."""

    def close(self, exit_code: int) -> None:
        """End the run: 0 done, 75 to be resumed, else failed."""


def missing_packages(name: str) -> list[str]:
    """Return the packages that a tracker needs and that are not installed."""
    wanted = {TENSORBOARD: ["tensorboard"], MLFLOW: ["mlflow"], WANDB: ["wandb"]}[name]
    if name == MLFLOW and "MLFLOW_TRACKING_URI" not in os.environ:
        wanted += ["sqlalchemy", "alembic"]  # of the store in the run's folder
    return [package for package in wanted if not _is_installed(package)]


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # a folder of this name alone is no package


def set_environment(names: tuple[str, ...]) -> None:
    """Set what trackers read when they are imported, which DeepSpeed does too; a user's own setting wins."""
    for name in names:
        for variable, value in SETTINGS[name].items():
            os.environ.setdefault(variable, value)


def check_installed(names: tuple[str, ...]) -> None:
    """Raise InputError, with the command that helps, unless all trackers' packages are here."""
    for name in names:
        missing = missing_packages(name)
        if missing:
            line = f"pip install -e '.[{name}]'"
            raise InputError(f"--track {name} needs {' and '.join(missing)}: {line} in the clone of csr")
