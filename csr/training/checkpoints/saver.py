"""Files that training writes: best models, weights now and then, training checkpoints. Collective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csr.engine.engine import Engine
from csr.runtime import distributed
from csr.runtime.errors import StoppedError
from csr.runtime.monitor import Monitor
from csr.runtime.tensor_files import Written, save_tensors
from csr.stages.base import Stage
from csr.stages.runner import STAGE_NUMBER, Weights
from csr.training.checkpoints import best_epoch
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.state import TrainState, best_file_of

WEIGHTS_EVERY_EPOCHS = 5  # of a stage that is not validated
# epochs on cached features take a moment: there saving may take this share of the time, and waits this long
SAVING_SHARE, SAVING_PAUSE_S = 0.05, 3.0


class Saver:
    """Writes into the result folder from rank 0; a failure ends the run on all ranks.

    Args:
        folder: of the results.
        checkpoints: folder of training checkpoints.
        monitor: prints and logs what was saved.
        accumulation: micro steps per optimizer step.
        board: bytes of the TensorBoard files of the run that is resumed, by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        checkpoints: CheckpointFolder,
        monitor: Monitor,
        accumulation: int,
        board: dict[str, int],
    ) -> None:
        self.folder, self._checkpoints, self._monitor = folder, checkpoints, monitor
        self._accumulation, self._board = accumulation, board
        self.seconds = 0.0  # spent on training checkpoints, all in all
        self._unsaved_best: str | None = None
        self._saved_at, self._took_s = time.monotonic(), 0.0

    def keep(self, engine: Engine, stage: Stage, state: TrainState) -> None:
        """Remember the best epoch of a validated stage, write every fifth of one that is not."""
        record = state.history[-1]
        if stage.label is None:
            if state.epoch % WEIGHTS_EVERY_EPOCHS == 0:
                weights = stage.model_weights(engine.state_dict())
                self.weights(weights, f"model_stage{STAGE_NUMBER[stage.name]}_epoch{state.epoch}.pth")
            return
        auc, loss = record["auc"], record["val_loss"]
        merit = best_epoch.merit(auc, loss)
        if not best_epoch.is_better(merit, (state.best_score, -state.best_loss)):
            return
        state.best_score, state.best_loss = merit[0], loss
        state.best_weights = stage.model_weights(engine.state_dict())
        self._unsaved_best = f"validation loss {loss:.4f}" if math.isnan(auc) else f"AUC {auc:.4f}"

    def is_cheap(self) -> bool:
        """Return whether enough time has passed since the last checkpoint (on this rank's clock)."""
        return time.monotonic() - self._saved_at > max(SAVING_PAUSE_S, self._took_s / SAVING_SHARE)

    def checkpoint(self, engine: Engine, state: TrainState) -> Path:
        """Write all that is needed to resume from here; return the checkpoint's folder."""
        began = time.monotonic()
        self._best(state)
        own = {**state.of_this_rank(), "board": self._monitor.board_lengths()}
        ranks = distributed.all_gather_object(own)
        for rank in ranks:
            self._board = {**self._board, **rank.pop("board")}
        blob = {
            "state": state.to_save(),
            "engine": engine.training_state(),
            "ranks": ranks,
            "accumulation": self._accumulation,
            "board": self._board,
        }
        place, best = state.place(), state.best_files
        path = self._on_main(lambda: self._checkpoints.write(blob, place=place, best=best))
        self._saved_at = time.monotonic()
        self._took_s = self._saved_at - began
        self.seconds += self._took_s
        self._monitor.log(f"{path}: {state.place()}")
        return path

    def _best(self, state: TrainState) -> None:
        """Write the best model if it is newer than its file: together with its checkpoint."""
        if self._unsaved_best is None or state.best_weights is None:
            return
        name = best_file_of(state.stage)
        state.best_files[name] = self.weights(state.best_weights, name)
        self._monitor.say(f"Saved best model ({self._unsaved_best}): {self.folder / name}")
        self._unsaved_best = None

    def weights(self, weights: Weights, file_name: str) -> Written:
        """Write a plain state dict; return its size and hash."""
        return self._on_main(lambda: save_tensors(self.folder / file_name, weights))

    def _on_main(self, write: Callable[[], Any]) -> Any:
        def attempt() -> tuple[Any, str]:
            try:
                return write(), ""
            except OSError as error:
                return None, error.strerror or str(error)

        result, problem = distributed.on_main(attempt)
        if problem:
            raise StoppedError(
                f"{self.folder}: cannot be written ({problem}): what was saved before is whole; "
                "make room there, then the same command resumes"
            )
        return result
