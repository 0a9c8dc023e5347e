"""MLflow: a run by its client. Without `MLFLOW_TRACKING_URI` it lies in `mlflow/` of the run's folder."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from csr.training.trackers.tracker import Scalar

FOLDER, DATABASE, FILES = "mlflow", "mlflow.db", "files"
EXPERIMENT = "csr"
STATUS = {0: "FINISHED", 75: "KILLED"}
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # MLflow's limits


class MlflowTracker:
    """One run of MLflow.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        for chatty in ("mlflow", "alembic", "urllib3"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        from mlflow import MlflowClient, entities

        self._make_client, self._entities, self._folder = MlflowClient, entities, folder
        self._own = None if "MLFLOW_TRACKING_URI" in os.environ else (folder / FOLDER).resolve()
        self._client: Any = None
        self._run = ""

    def open(self, kept: str | None) -> str:
        if self._own is not None:
            if kept is None and self._own.exists():  # of a run that was killed while MLflow made it
                shutil.rmtree(self._own)
            self._own.mkdir(exist_ok=True)
        self._client = self._make_client(None if self._own is None else f"sqlite:///{self._own / DATABASE}")
        if kept is not None:
            self._client.get_run(kept)
            self._client.update_run(kept, status="RUNNING")
            self._run = kept
        else:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            self._run = self._client.create_run(
                self._experiment(experiment), run_name=self._folder.name
            ).info.run_id
        return self._run

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        place = None if self._own is None else (self._own / FILES).as_uri()
        return self._client.create_experiment(name, artifact_location=place)

    def describe(self, options: Mapping[str, Scalar], facts: Mapping[str, Scalar]) -> None:
        there = self._client.get_run(self._run).data.params  # MLflow refuses another value
        params = [
            self._entities.Param(name, str(value)) for name, value in options.items() if name not in there
        ]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self._run, params=params[start : start + PARAMS_AT_ONCE])
        for name, value in facts.items():
            self._client.set_tag(self._run, name, str(value))

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        now = int(time.time() * 1000)
        found = [self._entities.Metric(key_of(tag), value, now, step) for tag, value in values.items()]
        for start in range(0, len(found), METRICS_AT_ONCE):
            self._client.log_batch(self._run, metrics=found[start : start + METRICS_AT_ONCE])

    def picture(self, tag: str, image_HW3: np.ndarray, *, step: int) -> None:
        self._client.log_image(self._run, image_HW3, f"pictures/{key_of(tag)}/step-{step:06d}.png")

    def files(self, folder: Path) -> None:
        self._client.log_artifacts(self._run, str(folder))

    def close(self, exit_code: int) -> None:
        self._client.set_terminated(self._run, STATUS.get(exit_code, "FAILED"))


def key_of(tag: str) -> str:
    """Return a tag as MLflow takes it: letters, digits, `_-./: ` and blanks; others become `_`."""
    return re.sub(r"[^\w\-./: ]", "_", tag)
