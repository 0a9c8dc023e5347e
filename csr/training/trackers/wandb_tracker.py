"""Weights & Biases: one run, online or, with `WANDB_MODE=offline`, in `wandb/` of the run's folder."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from csr.training.trackers.tracker import Scalar

FOLDER, PROJECT = "wandb", "csr"
LAST_UPLOAD_S = 45.0  # what is not sent by then stays in the folder, for `wandb sync`


class WandbTracker:
    """One run of Weights & Biases.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        import wandb

        self._wandb: Any = wandb
        self._folder = folder
        self._run: Any = None

    def open(self, kept: str | None) -> str:
        mode = os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not self._wandb.login(prompt=False):
            raise ConnectionError("no API key: `wandb login`, or WANDB_MODE=offline")
        run_id = kept or secrets.token_hex(4)
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self._folder.name,
            id=run_id,
            resume="allow",
            dir=str(self._folder),
            mode=mode,
            settings=self._wandb.Settings(
                silent=True, console="off", finish_timeout=LAST_UPLOAD_S, finish_timeout_raises=True
            ),
        )
        return run_id

    def describe(self, options: Mapping[str, Scalar], facts: Mapping[str, Scalar]) -> None:
        self._run.config.update({**options, **facts}, allow_val_change=True)

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, tag: str, image_HW3: np.ndarray, *, step: int) -> None:
        self._run.log({tag: self._wandb.Image(image_HW3)}, step=step)

    def files(self, folder: Path) -> None:
        name = re.sub(r"[^\w\-.]", "_", self._folder.name)
        artifact = self._wandb.Artifact(f"{name}-{self._run.id}", type="model")
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            artifact.add_file(str(path), name=path.relative_to(folder).as_posix())
        self._run.log_artifact(artifact)

    def close(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)
