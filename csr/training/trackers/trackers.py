"""All trackers of a run beside TensorBoard, as one: rank 0 tells them what its board is told."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from csr.config.trackers import MLFLOW, WANDB
from csr.model.sharing.loading import load_run
from csr.runtime.errors import EXIT_DONE
from csr.training.trackers.background import Background
from csr.training.trackers.mlflow_tracker import MlflowTracker
from csr.training.trackers.record import Record
from csr.training.trackers.tracker import Scalar, Tracker
from csr.training.trackers.wandb_tracker import WandbTracker

MAKERS: dict[str, Callable[[Path], Tracker]] = {MLFLOW: MlflowTracker, WANDB: WandbTracker}
PATIENCE_S = {True: 60.0, False: 15.0}  # with one job at the end, of a run that is done or is not
FILES = ("config.json", "results.json", "reference.json")


class Trackers:
    """Tells each tracker, in threads; what one does wrong is one line, and it is left out.

    Args:
        names: of `--track`; TensorBoard is none of these.
        folder: of the run.
        options: of the run, by name.
        facts: about the run, by name.
        warn: prints a line.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        folder: Path,
        *,
        options: Mapping[str, Scalar],
        facts: Mapping[str, Scalar],
        warn: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._all = [
            Background(
                name,
                lambda make=MAKERS[name]: make(folder),  # type: ignore[misc]
                Record(folder, name),
                begin=lambda tracker: tracker.describe(options, facts),
                warn=warn,
            )
            for name in names
            if name in MAKERS
        ]

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Tell numbers by tag; those that are not finite are left out."""
        known = {tag: float(value) for tag, value in values.items() if math.isfinite(value)}
        if known:
            for one in self._all:
                one.add_step(next(iter(values)), step, lambda tracker: tracker.metrics(known, step=step))

    def figure(self, tag: str, image_HW3: np.ndarray, *, step: int) -> None:
        """Tell a picture, uint8."""
        for one in self._all:
            one.add_step(tag, step, lambda tracker: tracker.picture(tag, image_HW3, step=step))

    def model(self, *, is_csr: bool) -> None:
        """Tell the model of a run that is done: exported with its card, or a baseline's final weights."""

        def send(tracker: Tracker) -> None:
            with tempfile.TemporaryDirectory(prefix="csr-tracked-") as place:
                if is_csr:
                    load_run(self._folder).save_pretrained(Path(place) / "model")
                else:
                    shutil.copy(self._folder / "final_model.pth", place)
                for name in FILES:
                    shutil.copy(self._folder / name, place)
                tracker.files(Path(place))

        for one in self._all:
            one.add_step("model", 0, send)

    def close(self, exit_code: int) -> None:
        """End the run in all trackers; wait a while for what is still to be sent."""
        for one in self._all:
            one.close(exit_code, patience_s=PATIENCE_S[exit_code == EXIT_DONE])
