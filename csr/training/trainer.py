"""The only training loop: it runs any stage for its epochs, validates, keeps the best, and can go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from csr.data.prefetch import Clock
from csr.engine.device import local_device
from csr.engine.engine import Engine
from csr.runtime import distributed
from csr.runtime.collective_time import IN_COLLECTIVES
from csr.runtime.errors import PreemptedError, StoppedError
from csr.runtime.monitor import Monitor
from csr.runtime.progress import PROGRESS
from csr.runtime.signals import StopRequest
from csr.stages.base import Stage
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.saver import Saver
from csr.training.checkpoints.state import (
    STAGE_NUMBER,
    Saved,
    TrainState,
    Weights,
    seed_generators,
    set_generators,
)
from csr.training.data import Splits, labels_of
from csr.training.features.cache import FeatureOptions
from csr.training.features.table import FeatureViews
from csr.training.feeder import Feeder
from csr.training.logs import throughput
from csr.training.logs.epoch_report import report_epoch, step_values
from csr.training.logs.profiler import FOLDER, profiled
from csr.training.logs.throughput import Spent
from csr.training.skipped_steps import SkippedSteps
from csr.training.validation import Validator

__all__ = ["STAGE_NUMBER", "Splits", "Trainer", "TrainerOptions", "Weights", "labels_of"]


@dataclass(frozen=True)
class TrainerOptions:
    """What the loop needs to know of the options."""

    batch_size: int
    accumulation: int
    epochs: dict[str, int]
    lr_factor: Callable[[int, int], float]  # (step, total steps) -> factor
    precision: str
    seed: int
    caching: FeatureOptions
    log_every: int
    max_skipped: int
    save_every: int = 0  # optimizer steps between checkpoints within an epoch; 0: at its end only
    profile: int = 0  # optimizer steps of each stage in rank 0's trace
    max_windows: int | None = None  # a dry run's limit on optimizer steps per epoch


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
        self._saving_told = self._saving_within = 0.0
        self.state = saved.state if saved else TrainState()
        self.device, self.clock = local_device(), Clock()
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
        """Train one stage, or the rest of it; return the weights that go on: best epoch's, or last's."""
        saved, self._saved = self._saved, None
        state, epochs = self.state, self.options.epochs[stage.name]
        stage.to(self.device)
        PROGRESS.at(stage.name, state.epoch if saved else 1, state.windows if saved else 0)
        if saved is None:
            state.begin_stage(stage.name)
        else:
            assert state.stage == stage.name, "a run goes on in the stage of its checkpoint"
            stage.load_state_dict(saved.weights)
        if saved is not None and state.epoch > epochs:  # only the hand-over was missing
            return state.best_weights or stage.model_weights(saved.weights)
        features, val_features = self._features(stage, fresh=saved is None)
        cached = features if self._is_cached(features) else None
        self._telemetry = throughput.begin(
            stage, self._feeder, cached, precision=self.options.precision, device=self.device
        )
        engine = self._open_engine(stage, saved)
        self._guard = SkippedSteps(self.options.max_skipped, streak=state.streak)
        del saved
        with self._profiled(stage) as self._step_profiled:
            while state.epoch <= epochs:
                self._epoch(engine, stage, features, val_features)
        told = throughput.over_ranks(self._telemetry.stage())
        self.monitor.say(
            throughput.line_of(
                told,
                stage_number=STAGE_NUMBER[stage.name],
                save_every=self.options.save_every,
                advise=self.options.max_windows is None,
            )
        )
        last = stage.model_weights(engine.close().state_dict())
        return state.best_weights or last

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

    def _open_engine(self, stage: Stage, saved: Saved | None) -> Engine:
        total = self.options.epochs[stage.name] * self.windows_per_epoch
        engine = Engine(
            stage,
            param_groups=stage.param_groups(),
            ds_config=self.ds_config,
            lr_factor=lambda step: self.options.lr_factor(step, total),
        )
        if saved is not None:
            engine.load_training_state(saved.engine)
        if saved is not None and saved.generators is not None:
            set_generators(saved.generators)
        else:
            seed_generators(self.options.seed, STAGE_NUMBER[stage.name], self.state.global_step)
        return engine

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
        """Say on each rank's board what this epoch was spent on; the ranks' mean. Collective."""
        state = self.state
        assert state.record is not None
        saving, self._saving_told = self.saver.seconds - self._saving_told, self.saver.seconds
        told = self._telemetry.epoch(
            Spent(
                train=state.seconds,
                evaluation=evaluation,
                caches=state.record.get("features_s", 0.0),
                saving=saving - self._saving_within,
                saving_within=self._saving_within,
                data=state.waited,
                communication=state.in_collectives,
                images=state.images,
            )
        )
        self._saving_within = 0.0
        self.monitor.scalars({f"{stage.name}_time/{k}": v for k, v in told.items()}, step=state.global_step)
        return throughput.over_ranks(told)

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
        """The rest of a pass over the training images; losses stay on the device until log intervals."""
        state, guard = self.state, self._guard
        epoch_key = 10_000 * STAGE_NUMBER[stage.name] + state.epoch  # no order or augmentation comes twice
        tick, since = time.perf_counter(), state.images
        began = tick - state.seconds
        loss_sum = torch.as_tensor(state.loss_sum, dtype=torch.float32).to(self.device)
        self.clock.take("data")
        IN_COLLECTIVES.take()
        self.stop.restart()
        batches = self._feeder.batches(
            stage,
            features if self._is_cached(features) else None,
            epoch_key=epoch_key,
            first_window=state.windows,
            clock=self.clock,
        )
        left = (self.windows_per_epoch - state.windows) * self.options.accumulation
        title = f"Stage {STAGE_NUMBER[stage.name]} epoch {state.epoch}/{self.options.epochs[stage.name]}"
        for batch, is_last in self.monitor.bar(batches, total=left, title=title):
            skipped_before = engine.skipped_steps
            PROGRESS.at(stage.name, state.epoch, state.windows + 1)
            output = engine.micro_step(self._feeder.prepare(batch, epoch_key=epoch_key))
            loss_sum += output.loss.detach().float()
            state.images += len(batch["positions"])
            guard.add(output.loss.detach(), batch["positions"])
            if not is_last:
                continue
            state.global_step += 1
            state.windows += 1
            self._step_profiled()
            if guard.step_done(skipped=engine.skipped_steps > skipped_before):
                self._stop_on_skips(guard, engine)
            if state.global_step % self.options.log_every == 0 or state.windows == self.windows_per_epoch:
                waited, now = self.clock.take("data"), time.perf_counter()
                state.waited += waited
                state.in_collectives += IN_COLLECTIVES.take()
                values = step_values(engine, stage, output)
                values[f"{stage.name}/images_per_s"] = (state.images - since) / (now - tick)
                values[f"{stage.name}/data_wait_s"] = waited
                self.monitor.scalars(values, step=state.global_step)
                self.monitor.bar_loss(values[f"{stage.name}/loss"])
                since, tick = state.images, now
            state.loss_sum, state.streak, state.seconds = loss_sum, guard.streak, time.perf_counter() - began
            self._between_steps(engine)
        micro_steps = state.windows * self.options.accumulation
        loss = float(distributed.all_reduce_sum(loss_sum / micro_steps)) / distributed.world_size()
        if not math.isfinite(loss):
            self._stop_on_skips(guard, engine)
        state.seconds = time.perf_counter() - began
        state.in_collectives += IN_COLLECTIVES.take()
        return {
            "train_loss": loss,
            "seconds": state.seconds,
            "data_wait_s": state.waited,
            "images_per_s": state.images / state.seconds,
            "skipped_steps": engine.skipped_steps,
        }

    def _between_steps(self, engine: Engine) -> None:
        """Where a run may be saved, and may stop."""
        if self.stop.due():
            self._save_and_stop(engine)
        every, is_last = self.options.save_every, self.state.windows == self.windows_per_epoch
        if every and self.state.global_step % every == 0 and not is_last:
            before = self.saver.seconds
            self.saver.checkpoint(engine, self.state)
            self._saving_within += self.saver.seconds - before

    def _save_and_stop(self, engine: Engine) -> NoReturn:
        path = self.saver.checkpoint(engine, self.state)
        state = self.state
        where = f"epoch {state.epoch}, after step {state.windows} of {self.windows_per_epoch}"
        raise self.stop.error(f"in the {state.stage} stage, {where}, saved as {path}")

    def _stop_on_skips(self, guard: SkippedSteps, engine: Engine) -> NoReturn:
        where = f"{self.state.stage} stage, epoch {self.state.epoch}, step {self.state.global_step}"
        train = self.data.train
        ids = [train.table.image_ids[i] for i in train.indices]
        lines = [
            f"rank {r}: images {', '.join(ids[i] for i in indices[:8])}"
            for r, indices in enumerate(distributed.all_gather_object(guard.suspects()))
            if indices
        ]
        self.monitor.flush()
        raise StoppedError(
            f"{guard.streak} steps in a row were skipped or not finite ({where}); "
            f"{'; '.join(lines) or 'the losses were finite, the gradients were not'}; "
            f"loss scale {engine.loss_scale:g}: try a lower --lr, --precision bf16 or fp32, or "
            "look at these images"
        )

    def _end_epoch(
        self, engine: Engine, stage: Stage, features: FeatureViews | None, *, last: bool
    ) -> dict[str, float]:
        distributed.average_buffers(stage)
        report = stage.end_epoch(features, last=last)
        if report.get("restarted"):
            distributed.broadcast_module(stage)
            engine.weights_changed()
        return report
