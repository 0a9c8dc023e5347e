"""The only training loop: it runs any stage for its epochs, validates, and keeps the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr import distributed, inference
from csr.batches import Batch, Clock, Load, ahead, cached_loader, to_device
from csr.checkpoint import save_tensors
from csr.data.dataset import LabelledImages, WindowSampler
from csr.data.transforms import EvalTransform, TrainTransform, box_masks
from csr.engine import Engine, inference_precision, local_device
from csr.errors import StoppedError
from csr.features import FeatureTable
from csr.guard import StepGuard
from csr.metrics import Metrics, multilabel_metrics
from csr.monitor import Monitor
from csr.stages.base import Stage

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainerOptions:
    """What the loop needs to know of the options."""

    batch_size: int
    accumulation: int
    epochs: dict[str, int]
    lr_factor: Callable[[int, int], float]  # (step, total steps) -> factor
    precision: str
    seed: int
    cache: str
    log_every: int
    max_skipped: int
    save_every_epochs: int = 5
    max_windows: int | None = None  # a dry run's limit on optimizer steps per epoch


@dataclass
class TrainState:
    """Where training is; the best epoch of the present stage."""

    stage: str = ""
    epoch: int = 0
    global_step: int = 0
    best_score: float = -math.inf
    best_weights: Weights | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Data:
    """What the loop trains and validates on."""

    train: LabelledImages
    val: LabelledImages
    train_transform: TrainTransform
    eval_transform: EvalTransform
    names: dict[str, tuple[str, ...]]  # "concept" and "target" -> label names
    map_size: tuple[int, int]


class Trainer:
    """Trains stages one after another.

    Args:
        options: of the loop.
        data: training and validation images.
        ds_config: merged DeepSpeed JSON.
        monitor: where progress goes.
        folder: of the results.
    """

    def __init__(
        self, options: TrainerOptions, *, data: Data, ds_config: dict[str, Any], monitor: Monitor, folder: Path
    ) -> None:
        self.options, self.data, self.ds_config = options, data, ds_config
        self.monitor, self.folder = monitor, folder
        self.state = TrainState()
        self.clock = Clock()
        self.device = local_device()
        self._sampler = WindowSampler(
            len(data.train), micro_batch=options.batch_size, accumulation=options.accumulation,
            rank=distributed.rank(), world=distributed.world_size(), seed=options.seed,
        )  # fmt: skip
        self._labels = labels_of(data.train)

    @property
    def windows_per_epoch(self) -> int:
        return min(self._sampler.num_windows, self.options.max_windows or self._sampler.num_windows)

    def train_stage(self, stage: Stage) -> Weights:
        """Train one stage; return the model weights that go on: the best epoch's, or the last's."""
        self.state = TrainState(stage=stage.name, global_step=self.state.global_step, history=self.state.history)
        stage.to(self.device)
        train_features, val_features = self._features(stage)
        epochs = self.options.epochs[stage.name]
        total = epochs * self.windows_per_epoch
        engine = Engine(
            stage, param_groups=stage.param_groups(), ds_config=self.ds_config,
            lr_factor=lambda step: self.options.lr_factor(step, total),
        )  # fmt: skip
        for epoch in range(1, epochs + 1):
            self.state.epoch = epoch
            record = self._train_epoch(engine, stage, epoch, train_features)
            record.update(self._end_epoch(engine, stage, train_features, last=epoch == epochs))
            record.update(self._validate(engine, stage, val_features))
            self._report(stage, record)
            self._keep(engine, stage, record)
        last = stage.model_weights(engine.close().state_dict())
        return self.state.best_weights or last

    def _features(self, stage: Stage) -> tuple[FeatureTable | None, FeatureTable | None]:
        if not stage.frozen_inputs:
            return None, None
        began = time.perf_counter()
        tables = [self._compute_features(stage, self.data.train, "train")]
        if stage.label is not None:
            tables.append(self._compute_features(stage, self.data.val, "validation"))
        stage.begin(tables[0])
        distributed.broadcast_module(stage)
        self.monitor.gathered(
            {f"{stage.name}/seconds_features": time.perf_counter() - began}, step=self.state.global_step
        )
        return tables[0], tables[1] if stage.label is not None else None

    def _compute_features(self, stage: Stage, dataset: LabelledImages, split: str) -> FeatureTable:
        stage.eval()
        with inference_precision(self.options.precision, self.device):
            table = inference.compute_features(
                stage.inputs, self._eval_batches(dataset, f"Features ({split})"), num_images=len(dataset)
            )
        stage.train()
        return table

    def _eval_batches(self, dataset: LabelledImages, title: str) -> Iterator[Batch]:
        size = 2 * self.options.batch_size
        batches = inference.image_batches(
            dataset, transform=self.data.eval_transform, batch_size=size, device=self.device
        )
        return self.monitor.bar(batches, total=inference.num_batches(len(dataset), size), title=title)

    def _prepare(self, batch: Batch, epoch: int) -> Batch:
        """Move to the device and augment there."""
        batch = to_device(batch, self.device)
        if "image" not in batch:
            return batch
        batch["image"], theta_B23 = self.data.train_transform(
            batch["image"], index_B=batch["index"], epoch=epoch, seed=self.options.seed
        )
        if "box" in batch:
            height, width = self.data.map_size
            batch["box_mask"] = box_masks(
                batch["box"], class_R=batch["box_class"], row_R=batch["box_row"], theta_B23=theta_B23,
                num_concepts=batch["concept"].shape[1], height=height, width=width,
            )  # fmt: skip
        return batch

    def _train_epoch(
        self, engine: Engine, stage: Stage, epoch: int, features: FeatureTable | None
    ) -> dict[str, Any]:
        """One pass over the training images; losses stay on the device until log intervals."""
        use_cache = features is not None and self.options.cache != "off"
        load = (
            cached_loader(features, self._labels["concept"], self._labels["target"])
            if use_cache and features is not None
            else self.data.train.load
        )
        guard = StepGuard(self.options.max_skipped)
        began, stage_epoch = time.perf_counter(), self._epoch_key(stage, epoch)
        loss_sum, since, micro_steps, images = torch.zeros((), device=self.device), 0.0, 0, 0
        self.clock.take("data")
        waited_total, tick = 0.0, time.perf_counter()
        loaded = ahead(self._load_epoch(stage, load, stage_epoch), clock=self.clock)
        total = self.windows_per_epoch * self.options.accumulation
        title = f"Stage {STAGE_NUMBER[stage.name]} epoch {epoch}/{self.options.epochs[stage.name]}"
        for batch, is_last in self.monitor.bar(loaded, total=total, title=title):
            skipped_before = engine.skipped_steps
            output = engine.micro_step(self._prepare(batch, stage_epoch))
            loss_sum += output.loss.detach().float()
            micro_steps += 1
            images += len(batch["positions"])
            guard.add(output.loss.detach(), batch["positions"])
            if not is_last:
                continue
            self.state.global_step += 1
            if guard.step_done(skipped=engine.skipped_steps > skipped_before):
                self._stop_on_skips(guard, engine)
            if self.state.global_step % self.options.log_every == 0:
                waited = self.clock.take("data")
                waited_total += waited
                seconds = time.perf_counter() - tick
                self._log_step(engine, stage, output, images=images - since, seconds=seconds, waited=waited)
                since, tick = images, time.perf_counter()
        seconds = time.perf_counter() - began
        waited_total += self.clock.take("data")
        loss = float(distributed.all_reduce_sum(loss_sum / micro_steps)) / distributed.world_size()
        if not math.isfinite(loss):
            self._stop_on_skips(guard, engine)
        return {
            "train_loss": loss, "seconds": seconds, "data_wait_s": waited_total,
            "images_per_s": images / seconds, "skipped_steps": engine.skipped_steps,
        }  # fmt: skip

    def _epoch_key(self, stage: Stage, epoch: int) -> int:
        """A number of its own for each epoch of each stage: orders and augmentations do not repeat."""
        return 10_000 * STAGE_NUMBER[stage.name] + epoch

    def _load_epoch(self, stage: Stage, load: Load, epoch_key: int) -> Iterator[tuple[Batch, bool]]:
        """(batch, is the last of its window), with the scale of each loss term over the global window."""
        share = distributed.world_size() * self.options.accumulation
        self._sampler.set_epoch(epoch_key)
        for i, (positions, valid) in enumerate(self._sampler):
            window, j = divmod(i, self.options.accumulation)
            if window == self.windows_per_epoch:
                return
            if j == 0:
                all_ranks = self._sampler.window_positions(window)
                counts = stage.counts({name: values[all_ranks] for name, values in self._labels.items()})
                scale = {name: share / max(count, 1.0) for name, count in counts.items()}
            batch = {**load(positions, valid), "scale": scale, "positions": positions[valid]}
            yield batch, j == self.options.accumulation - 1

    def _stop_on_skips(self, guard: StepGuard, engine: Engine) -> None:
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
            f"loss scale {engine.loss_scale:g}: try a lower --lr, --precision bf16 or fp32, or look at these images"
        )

    def _log_step(
        self, engine: Engine, stage: Stage, output: Any, *, images: float, seconds: float, waited: float
    ) -> None:
        name, step = stage.name, self.state.global_step
        loss = float(output.loss.detach())  # a sync point, once per log interval
        values = {f"{name}/{key}": float(value) for key, value in output.report.items()}
        values |= {f"{name}/lr_{key}": lr for key, lr in engine.learning_rates.items()}
        values |= {
            f"{name}/loss": loss,
            f"{name}/gradient_norm": engine.gradient_norm,
            f"{name}/loss_scale": engine.loss_scale,
            f"{name}/skipped_steps": engine.skipped_steps,
            f"{name}/images_per_s": images / seconds,
            f"{name}/data_wait_s": waited,
            f"{name}/memory_mib": memory_mib(),
        }
        self.monitor.scalars(values, step=step)
        self.monitor.bar_loss(loss)

    def _end_epoch(
        self, engine: Engine, stage: Stage, features: FeatureTable | None, *, last: bool
    ) -> dict[str, float]:
        distributed.average_buffers(stage)
        report = stage.end_epoch(features, last=last)
        if report.get("restarted"):
            distributed.broadcast_module(stage)
            engine.weights_changed()
        return report

    def _validate(self, engine: Engine, stage: Stage, features: FeatureTable | None) -> dict[str, Any]:
        if stage.label is None:
            return {}
        label_NL = torch.from_numpy(self._val_labels(stage))
        with engine.inference():
            if features is not None:
                logit_NL = stage.predict({"score": features.all("score").to(self.device)}).float().cpu()
            else:
                batches = self._eval_batches(self.data.val, "Validation")
                rows = inference.predict_rows(lambda b: {"logit": stage.predict(b).float()}, batches)
                logit_NL = rows["logit"]
        metrics = multilabel_metrics(
            stage.probability(logit_NL).numpy(), label_NL.numpy(), names=self.data.names[stage.label]
        )
        return {"val_loss": stage.evaluation_loss(logit_NL, label_NL), "metrics": metrics}

    def _val_labels(self, stage: Stage) -> np.ndarray:
        assert stage.label is not None
        return labels_of(self.data.val)[stage.label]

    def _report(self, stage: Stage, record: dict[str, Any]) -> None:
        step, name = self.state.global_step, stage.name
        metrics: Metrics | None = record.pop("metrics", None)
        values = {f"{name}_epoch/{k}": float(v) for k, v in record.items()}
        line = f"Train loss: {record['train_loss']:.4f}"
        if metrics is not None:
            values |= {f"{name}_epoch/{k}": v for k, v in metrics.summary().items()}
            values |= {f"{name}_auc/{label}": v for label, v in metrics.auc_by_label.items()}
            record.update(metrics.summary(), auc_by_label=metrics.auc_by_label)
            line += (
                f" | Val loss: {record['val_loss']:.4f} | AUC: {metrics.auc:.4f} | mAP: {metrics.mean_ap:.4f}"
                f" | F1 macro: {metrics.f1_macro:.4f} | F1 micro: {metrics.f1_micro:.4f}"
            )
        if "prototypes_alive" in record:
            line += f" | Prototypes alive: {record['prototypes_alive']}/{record['prototypes']}"
        self.monitor.gathered(values, step=step)
        record = {"stage": name, "epoch": self.state.epoch, "step": step, **record}
        self.state.history.append(record)
        self.monitor.epoch_line(record)
        epochs = self.options.epochs[name]
        self.monitor.say(f"Epoch {self.state.epoch}/{epochs} | {line} | {record['seconds']:.1f} s")
        self.monitor.flush()

    def _keep(self, engine: Engine, stage: Stage, record: dict[str, Any]) -> None:
        """Save the best epoch of a validated stage, and every fifth of one that is not."""
        last = self.state.history[-1]
        if stage.label is None:
            if self.state.epoch % self.options.save_every_epochs == 0:
                number = STAGE_NUMBER[stage.name]
                weights = stage.model_weights(engine.state_dict())
                self.save(weights, f"model_stage{number}_epoch{self.state.epoch}.pth")
            return
        # without both classes of any label in the validation images there is no AUC: the loss decides
        score = last["auc"] if not math.isnan(last["auc"]) else -last["val_loss"]
        if score <= self.state.best_score:
            return
        self.state.best_score = score
        self.state.best_weights = stage.model_weights(engine.state_dict())
        path = self.save(self.state.best_weights, f"best_model_stage{STAGE_NUMBER[stage.name]}.pth")
        what = f"AUC {last['auc']:.4f}" if not math.isnan(last["auc"]) else f"validation loss {last['val_loss']:.4f}"
        self.monitor.say(f"Saved best model ({what}): {path}")

    def save(self, weights: Weights, file_name: str) -> Path:
        """Write a plain state dict from rank 0; a failure is the same on all ranks."""
        path = self.folder / file_name
        distributed.on_main(lambda: save_tensors(path, weights))
        return path


STAGE_NUMBER = {"concept": 1, "prototype": 2, "task": 3}


def labels_of(dataset: LabelledImages) -> dict[str, np.ndarray]:
    """Labels of a data set's own images, in its order, and how many (image, concept) pairs have boxes."""
    labels = {
        "concept": dataset.table.concept_NK[dataset.indices],
        "target": dataset.table.target_NT[dataset.indices],
    }
    if dataset.boxes is not None:
        row_R, class_R, _ = dataset.boxes.for_batch(dataset.indices)
        pairs = np.unique(np.stack([row_R, class_R], axis=1), axis=0)
        labels["num_boxes"] = np.bincount(pairs[:, 0], minlength=len(dataset))
    return labels


def memory_mib() -> float:
    """Peak memory of this rank: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
