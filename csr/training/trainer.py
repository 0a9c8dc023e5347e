"""The only training loop: it runs any stage for its epochs, validates, keeps the best, and can resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

from csr.data.prefetch import Clock
from csr.engine.device import local_device
from csr.engine.engine import Engine
from csr.runtime import distributed
from csr.runtime.collective_time import IN_COLLECTIVES
from csr.runtime.errors import PreemptedError
from csr.runtime.monitor import Monitor
from csr.runtime.progress import PROGRESS
from csr.runtime.signals import StopRequest
from csr.stages.base import Stage
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.open_engine import open_engine
from csr.training.checkpoints.saver import Saver
from csr.training.checkpoints.state import (
    STAGE_NUMBER,
    Saved,
    TrainState,
    Weights,
)
from csr.training.data import Splits
from csr.training.features.table import FeatureViews
from csr.training.feeder import Feeder
from csr.training.logs import throughput
from csr.training.logs.board_points import BoardPoints
from csr.training.logs.epoch_report import report_epoch
from csr.training.logs.profiler import FOLDER, profiled
from csr.training.logs.throughput import Spent
from csr.training.losses import Losses
from csr.training.observers import EpochClock, Observer, ProfiledSteps, SavedEvery, StopWhenAsked
from csr.training.skipped_steps import SkippedSteps
from csr.training.trainer_options import TrainerOptions
from csr.training.validation import Validator


class Trainer:
    """Trains stages one after another.

    Args:
        options: of the loop.
        data: training and validation images.
        ds_config: merged DeepSpeed JSON.
        monitor: where progress goes.
        folder: of the results.
        checkpoints: where training checkpoints go.
        stop: asked between steps whether to save and leave.
        saved: a checkpoint to go on from; its stage must be the first that is trained.
    """

    def __init__(
        self,
        options: TrainerOptions,
        *,
        data: Splits,
        ds_config: dict[str, Any],
        monitor: Monitor,
        folder: Path,
        checkpoints: CheckpointFolder,
        stop: StopRequest,
        saved: Saved | None = None,
    ) -> None:
        self.options, self.data, self.ds_config = options, data, ds_config
        self.monitor, self.stop, self._saved = monitor, stop, saved
        self._saving_s = 0.0
        self.state = saved.state if saved else TrainState()
        self.device, self._clock = local_device(), Clock()
        self._feeder = Feeder(
            data,
            batch_size=options.batch_size,
            accumulation=options.accumulation,
            seed=options.seed,
            max_windows=options.max_windows,
            device=self.device,
        )
        self.validator = Validator(
            data,
            batch_size=2 * options.batch_size,
            precision=options.precision,
            device=self.device,
            monitor=monitor,
            stop=stop,
            caching=options.caching,
        )
        self.saver = Saver(
            folder,
            checkpoints=checkpoints,
            monitor=monitor,
            accumulation=options.accumulation,
            board=saved.board if saved else {},
        )

    @property
    def windows_per_epoch(self) -> int:
        return self._feeder.windows_per_epoch

    def train_stage(self, stage: Stage) -> Weights:
        """Train a stage, or the rest of it; return the weights of its best epoch, or of its last."""
        saved, self._saved = self._saved, None
        state, options = self.state, self.options
        stage.to(self.device)
        PROGRESS.at(stage.name, state.epoch if saved else 1, state.windows if saved else 0)
        if saved is None:
            state.begin_stage(stage.name)
        else:
            assert state.stage == stage.name, "a run resumes in the stage of its checkpoint"
            stage.load_state_dict(saved.weights)
        if saved is not None and state.epoch > options.epochs[stage.name]:  # only the hand-over was missing
            return state.best_weights or stage.model_weights(saved.weights)
        features, val_features = self._features(stage, fresh=saved is None)
        cached = features if self._is_cached(features) else None
        self._telemetry = throughput.begin(
            stage, self._feeder, cached, precision=options.precision, device=self.device
        )
        total = options.epochs[stage.name] * self.windows_per_epoch
        engine = open_engine(
            stage, self.ds_config, options, total_steps=total, step=state.global_step, saved=saved
        )
        del saved
        self._open_observers(engine)
        with self._profiled(stage) as self._step_profiled:
            while state.epoch <= options.epochs[stage.name]:
                self._epoch(engine, stage, features, val_features)
        self.monitor.say(
            throughput.line_of(
                throughput.over_ranks(self._telemetry.stage()),
                stage_number=STAGE_NUMBER[stage.name],
                save_every=options.save_every,
                advise=options.max_windows is None,
            )
        )
        last = stage.model_weights(engine.close().state_dict())
        return state.best_weights or last

    def _open_observers(self, engine: Engine) -> None:
        """Make the observers that last for a stage."""
        limit, train = self.options.max_skipped, self.data.train
        self._losses = Losses(device=self.device, remembered=limit)
        image_ids = [train.table.image_ids[i] for i in train.indices]
        self._skipped = SkippedSteps(
            limit, losses=self._losses, image_ids=image_ids, seen=engine.skipped_steps
        )
        self._saved_every = SavedEvery(
            self.saver, every=self.options.save_every, windows_per_epoch=self.windows_per_epoch
        )

    def _profiled(self, stage: Stage) -> AbstractContextManager[Callable[[], None]]:
        name = f"stage{STAGE_NUMBER[stage.name]}-{stage.name}-rank0.pt.trace.json"
        steps = self.options.profile if distributed.is_main() else 0
        return profiled(self.saver.folder / FOLDER / name, steps=steps, say=self.monitor.say)

    def _features(self, stage: Stage, *, fresh: bool) -> tuple[FeatureViews | None, FeatureViews | None]:
        """What frozen layers compute; a stage that begins takes its starting values from it."""
        if not stage.frozen_inputs:
            return None, None
        began = time.perf_counter()
        train, val = self.validator.features(stage)
        self._features_s = time.perf_counter() - began
        if fresh:
            stage.begin(train)
            distributed.broadcast_module(stage)
            seconds = {f"{stage.name}/seconds_features": time.perf_counter() - began}
            self.monitor.gathered(seconds, step=self.state.global_step)
        return train, val

    def _epoch(
        self, engine: Engine, stage: Stage, features: FeatureViews | None, val_features: FeatureViews | None
    ) -> None:
        state, epochs = self.state, self.options.epochs[stage.name]
        if state.record is None:
            record = self._train_epoch(engine, stage, features)
            if state.epoch == 1 and features is not None:
                record["features_s"] = self._features_s
            state.record = {**record, **self._end_epoch(engine, stage, features, last=state.epoch == epochs)}
        began = time.perf_counter()
        try:
            validated = self.validator.validate(engine, stage, val_features)
        except PreemptedError:
            self._save_and_stop(engine)
        record = report_epoch(
            self.monitor,
            stage,
            {**state.record, **validated},
            epoch=state.epoch,
            epochs=epochs,
            step=state.global_step,
            telemetry=self._account(stage, evaluation=time.perf_counter() - began),
        )
        state.history.append(record)
        self.saver.keep(engine, stage, state)
        state.begin_epoch()
        self._between_epochs(engine, is_last=state.epoch > epochs, is_short=self._is_cached(features))

    def _account(self, stage: Stage, *, evaluation: float) -> dict[str, float]:
        """Log what this rank spent the epoch on; return the ranks' mean. Collective."""
        saving, self._saving_s = self.saver.seconds - self._saving_s, self.saver.seconds
        spent = Spent.of_epoch(
            self.state, evaluation=evaluation, saving=saving, saving_within=self._saved_every.take_seconds()
        )
        shares = self._telemetry.epoch(spent)
        self.monitor.scalars(
            {f"{stage.name}_time/{k}": v for k, v in shares.items()}, step=self.state.global_step
        )
        return throughput.over_ranks(shares)

    def _is_cached(self, features: FeatureViews | None) -> bool:
        return features is not None and self.options.caching.mode != "off"

    def _between_epochs(self, engine: Engine, *, is_last: bool, is_short: bool) -> None:
        """Save; after an epoch of a moment only now and then, as rank 0's clock says."""
        due = distributed.is_main() and (is_last or not is_short or self.saver.is_cheap())
        stop, save = distributed.host_max([int(self.stop.requested), int(due)])
        if stop:
            self._save_and_stop(engine)
        if save:
            self.saver.checkpoint(engine, self.state)

    def _train_epoch(self, engine: Engine, stage: Stage, features: FeatureViews | None) -> dict[str, Any]:
        """Train on the rest of the epoch's images; return its record."""
        state, options = self.state, self.options
        state.loss_sum = self._losses.begin_epoch(state.loss_sum)
        self.stop.restart()
        observers = self._observers(stage)
        cached = features if self._is_cached(features) else None
        left = (self.windows_per_epoch - state.windows) * options.accumulation
        title = f"Stage {STAGE_NUMBER[stage.name]} epoch {state.epoch}/{options.epochs[stage.name]}"
        batches = self._feeder.batches(stage, cached, state, clock=self._clock)
        for batch in self.monitor.bar(batches, total=left, title=title):
            PROGRESS.at(stage.name, state.epoch, state.windows + 1)
            output = engine.micro_step(
                batch
            )  # a sync point at a window's end: clipping reads the gradient's norm
            self._losses.add(output.loss, batch)  # stays on the device: no sync
            state.images += len(batch["position"])
            if not batch["ends_window"]:
                continue
            state.step_done()
            for observer in observers:
                observer.after_step(state, engine, output)
        return self._epoch_record(engine)

    def _observers(self, stage: Stage) -> list[Observer]:
        """Return what happens after each step of an epoch, in order; the last two may end the run or save."""
        options, windows = self.options, self.windows_per_epoch
        self._epoch_clock = EpochClock(self.state)
        return [
            ProfiledSteps(self._step_profiled),
            self._skipped,
            BoardPoints(
                self.monitor,
                stage,
                self._clock,
                every=options.log_every,
                windows_per_epoch=windows,
                images=self.state.images,
            ),
            self._epoch_clock,
            StopWhenAsked(self.stop, self._save_and_stop),
            self._saved_every,
        ]

    def _epoch_record(self, engine: Engine) -> dict[str, Any]:
        """Return loss, seconds and rates of the epoch. Collective."""
        state = self.state
        loss = self._losses.mean(state.windows * self.options.accumulation)
        if not math.isfinite(loss):
            self._skipped.stop(state, engine)
        self._epoch_clock.update(state)
        state.in_collectives += IN_COLLECTIVES.take()
        return {
            "train_loss": loss,
            "seconds": state.seconds,
            "data_wait_s": state.waited,
            "images_per_s": state.images / state.seconds,
            "skipped_steps": engine.skipped_steps,
        }

    def _save_and_stop(self, engine: Engine) -> NoReturn:
        path = self.saver.checkpoint(engine, self.state)
        state = self.state
        place = f"epoch {state.epoch}, after step {state.windows} of {self.windows_per_epoch}"
        raise self.stop.error(f"in the {state.stage} stage, {place}, saved as {path}")

    def _end_epoch(
        self, engine: Engine, stage: Stage, features: FeatureViews | None, *, last: bool
    ) -> dict[str, float]:
        distributed.average_buffers(stage)
        report = stage.end_epoch(features, last=last)
        if report.get("restarted"):
            distributed.broadcast_module(stage)
            engine.weights_changed()
        return report
