"""The only training loop: it runs any stage for its epochs, validates, keeps the best, and can resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

from csr.data.prefetch import Clock
from csr.engine import memory
from csr.engine.deterministic import refusals_told
from csr.engine.device import local_device
from csr.engine.engine import Engine
from csr.engine.memory import memory_mib
from csr.runtime import distributed
from csr.runtime.collective_time import IN_COLLECTIVES
from csr.runtime.errors import PreemptedError
from csr.runtime.monitor import Monitor
from csr.runtime.progress import PROGRESS
from csr.runtime.signals import StopRequest
from csr.stages.base import Stage
from csr.stages.runner import STAGE_NUMBER, Weights
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.open_engine import open_engine
from csr.training.checkpoints.saver import Saver
from csr.training.checkpoints.state import Saved, TrainState
from csr.training.data import Splits
from csr.training.feeder import Feeder
from csr.training.logs import throughput
from csr.training.logs.epoch_report import epoch_times, report_epoch
from csr.training.logs.pictures import Pictures
from csr.training.logs.profiler import FOLDER, profiled
from csr.training.losses import Losses
from csr.training.observers.board_points import BoardPoints
from csr.training.observers.observer import EpochClock, ProfiledSteps, SavedEvery, StopWhenAsked
from csr.training.observers.skipped_steps import SkippedSteps
from csr.training.open_stage import OpenStage, StageFeatures
from csr.training.trainer_options import TrainerOptions
from csr.training.validation import Validator

OUT_OF_MEMORY_ADVICE = (
    "give a smaller --batch_size with more --accumulation, --batch_size auto, or --activation_checkpointing; "
    "the same command resumes with the last one"
)


class Trainer:
    """Trains stages one after another.

    Args:
        options: of the loop.
        data: training and validation images.
        ds_config: merged DeepSpeed JSON.
        monitor: prints and logs the progress.
        pictures: of the model in training.
        folder: of the results.
        checkpoints: of training, written now and then.
        stop: asked between steps whether to save and leave.
        saved: a checkpoint to resume from; its stage must be the first that is trained.
    """

    def __init__(
        self,
        options: TrainerOptions,
        *,
        data: Splits,
        ds_config: dict[str, Any],
        monitor: Monitor,
        pictures: Pictures,
        folder: Path,
        checkpoints: CheckpointFolder,
        stop: StopRequest,
        saved: Saved | None = None,
    ) -> None:
        self.options, self.data, self.ds_config = options, data, ds_config
        self.monitor, self.stop, self._saved = monitor, stop, saved
        self._saving_s, self._pictures = 0.0, pictures
        self.state = saved.state if saved else TrainState()
        self.device, self._clock = local_device(), Clock()
        self._feeder = Feeder(
            data,
            batch_size=options.batch_size,
            accumulation=options.accumulation,
            seed=options.seed,
            max_windows=options.max_windows,
            device=self.device,
            epochs_stage1=next(iter(options.epochs.values())),
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
        """Optimizer steps of an epoch."""
        return self._feeder.windows_per_epoch

    def train_stage(self, stage: Stage) -> Weights:
        """Train a stage, or the rest of it; return the weights of its best epoch, or its last. Collective."""
        saved, self._saved = self._saved, None
        state, num_epochs = self.state, self.options.epochs[stage.name]
        stage.to(self.device)
        if not stage.frozen_inputs:
            self.validator.maps.clear()
        PROGRESS.at(stage.name, state.epoch if saved else 1, state.windows if saved else 0)
        if saved is None:
            state.begin_stage(stage.name)
        else:
            assert state.stage == stage.name, "a run resumes in the stage of its checkpoint"
            stage.load_state_dict(saved.weights)
        if saved is not None and state.epoch > num_epochs:  # only the hand-over was missing
            return state.best_weights or stage.model_weights(saved.weights)
        told = memory.exhaustion_told(OUT_OF_MEMORY_ADVICE, device=self.device)
        with told, refusals_told(), self._profiled(stage) as step_profiled:
            opened = self._open(stage, saved, step_profiled)
            while state.epoch <= num_epochs:
                self._epoch(opened)
        self.monitor.say(
            throughput.line_of(
                throughput.over_ranks(opened.telemetry.stage()),
                stage_number=STAGE_NUMBER[stage.name],
                save_every=self.options.save_every,
                advise=self.options.max_windows is None,
            )
        )
        last = stage.model_weights(opened.engine.close().state_dict())
        return state.best_weights or last

    def _profiled(self, stage: Stage) -> AbstractContextManager[Callable[[], None]]:
        name = f"stage{STAGE_NUMBER[stage.name]}-{stage.name}-rank0.pt.trace.json"
        steps = self.options.profile if distributed.is_main() else 0
        return profiled(self.saver.folder / FOLDER / name, steps=steps, report=self.monitor.say)

    def _open(self, stage: Stage, saved: Saved | None, step_profiled: Callable[[], None]) -> OpenStage:
        """Compute features, count FLOPs, build the engine and the observers. Collective."""
        options, train, windows = self.options, self.data.train, self.windows_per_epoch
        features = self._features(stage, begins=saved is None)
        telemetry = throughput.begin(
            stage, self._feeder, features.of_steps, precision=options.precision, device=self.device
        )
        total = options.epochs[stage.name] * windows
        engine = open_engine(
            stage, self.ds_config, options, total_steps=total, step=self.state.global_step, saved=saved
        )
        losses = Losses(device=self.device, remembered=options.max_skipped)
        skipped = SkippedSteps(
            options.max_skipped,
            losses=losses,
            image_ids=[train.table.image_ids[i] for i in train.indices],
            seen=engine.skipped_steps,
            monitor=self.monitor,
        )
        points = BoardPoints(
            self.monitor,
            stage,
            losses,
            self._clock,
            every=options.log_every,
            windows_per_epoch=windows,
            epochs=options.epochs[stage.name],
        )
        clock, stop = EpochClock(), StopWhenAsked(self.stop, self._save_and_stop)
        saves = SavedEvery(self.saver, every=options.save_every, windows_per_epoch=windows)
        observers = (ProfiledSteps(step_profiled), skipped, points, clock, stop, saves)
        return OpenStage(stage, engine, features, telemetry, losses, clock, skipped, saves, observers)

    def _features(self, stage: Stage, *, begins: bool) -> StageFeatures:
        """Compute or read what frozen layers give; a stage that begins takes its starting values from it."""
        is_cached = self.options.caching.mode != "off"
        if not stage.frozen_inputs or not (is_cached or stage.needs_features):
            return StageFeatures()
        began = time.perf_counter()
        train, val = self.validator.features(stage)
        seconds = time.perf_counter() - began
        if begins:
            stage.begin(train)
            distributed.broadcast_module(stage)
        return StageFeatures(train, val, seconds, is_cached=is_cached)

    def _epoch(self, opened: OpenStage) -> None:
        """Train and validate one epoch, or the rest of it; log, keep the best, save. Collective."""
        state, stage, engine = self.state, opened.stage, opened.engine
        num_epochs = self.options.epochs[stage.name]
        if state.record is None:
            record = self._train_epoch(opened)
            state.record = {**record, **self._end_epoch(opened, last=state.epoch == num_epochs)}
        began = time.perf_counter()
        try:
            validated = self.validator.validate(engine, stage, opened.features.val)
        except PreemptedError:
            self._save_and_stop(engine)
        record = report_epoch(
            self.monitor,
            stage,
            {**state.record, **validated},
            epoch=state.epoch,
            epochs=num_epochs,
            step=state.global_step,
            telemetry=self._account(opened, evaluation=time.perf_counter() - began),
        )
        state.history.append(record)
        self._pictures.after_epoch(engine, stage, opened.features.train, state)
        self.saver.keep(engine, stage, state)
        state.begin_epoch()
        self._between_epochs(engine, is_last=state.epoch > num_epochs, is_short=opened.features.is_cached)

    def _train_epoch(self, opened: OpenStage) -> dict[str, Any]:
        """Train on the rest of the epoch's images; return its record. Collective."""
        state, stage, engine, options = self.state, opened.stage, opened.engine, self.options
        opened.begin_epoch(state, weight=self._feeder.weight_of(state.windows))
        left = (self.windows_per_epoch - state.windows) * options.accumulation
        title = f"Stage {STAGE_NUMBER[stage.name]} epoch {state.epoch}/{options.epochs[stage.name]}"
        batches = self._feeder.batches(stage, opened.features.of_steps, state, clock=self._clock)
        for batch in self.monitor.bar(batches, total=left, title=title):
            PROGRESS.at(stage.name, state.epoch, state.windows + 1)
            # a sync point at a window's end alone: clipping reads the gradient's norm
            output = engine.micro_step(batch)
            opened.losses.add(output, batch)  # stays on the device: no sync
            state.images += len(batch["position"])
            if not batch["ends_window"]:
                continue
            state.step_done()
            for observer in opened.observers:  # those that sync do so when they are due
                observer.after_step(state, engine, output)
        return self._epoch_record(opened)

    def _epoch_record(self, opened: OpenStage) -> dict[str, Any]:
        """Return loss, seconds and rates of the epoch. A sync point: the loss sum is read. Collective."""
        state, engine = self.state, opened.engine
        loss = opened.losses.mean()
        if not math.isfinite(loss):
            opened.skipped.stop(state, engine)
        opened.clock.update(state)
        state.in_collectives += IN_COLLECTIVES.take()
        record = {
            "train_loss": loss,
            "seconds": state.seconds,
            "data_wait_s": state.waited,
            "images_per_s": state.images / state.seconds,
            "skipped_steps": engine.skipped_steps,
        }
        if state.epoch == 1 and opened.features.train is not None:
            record["features_s"] = opened.features.seconds
        return record

    def _end_epoch(self, opened: OpenStage, *, last: bool) -> dict[str, float]:
        """Make buffers equal on all ranks; let the stage edit its weights; return its report. Collective."""
        stage = opened.stage
        distributed.average_buffers(stage)
        report = stage.end_epoch(opened.features.train, last=last)
        # GPUs of two kinds may differ in a tie: where one rank moved prototypes, all take rank 0's
        if "restarted" in report and distributed.host_max([int(report["restarted"] > 0)])[0]:
            distributed.broadcast_module(stage)
            opened.engine.weights_changed()
        return report

    def _account(self, opened: OpenStage, *, evaluation: float) -> dict[str, float]:
        """Log what this rank spent the epoch on; return the ranks' mean. Collective."""
        saving, self._saving_s = self.saver.seconds - self._saving_s, self.saver.seconds
        spent = throughput.Spent.of_epoch(
            self.state,
            work=self._feeder.work(opened.stage, epoch=self.state.epoch),
            evaluation=evaluation,
            saving=saving,
            saving_within=opened.saves.take_seconds(),
        )
        shares = opened.telemetry.epoch(spent)
        points = epoch_times(opened.stage.name, shares)
        self.monitor.scalars(points, step=self.state.global_step)
        return throughput.over_ranks({**shares, "memory_mib": memory_mib()})

    def _between_epochs(self, engine: Engine, *, is_last: bool, is_short: bool) -> None:
        """Save; after an epoch of a moment only now and then, as rank 0's clock decides. Collective."""
        due = distributed.is_main() and (is_last or not is_short or self.saver.is_cheap())
        stop, save = distributed.host_max([int(self.stop.requested), int(due)])
        if stop:
            self._save_and_stop(engine)
        if save:
            self.saver.checkpoint(engine, self.state)

    def _save_and_stop(self, engine: Engine) -> NoReturn:
        state, path = self.state, self.saver.checkpoint(engine, self.state)
        place = f"epoch {state.epoch}, after step {state.windows} of {self.windows_per_epoch}"
        raise self.stop.error(f"in the {state.stage} stage, {place}, saved as {path}")
