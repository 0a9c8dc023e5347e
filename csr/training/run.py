"""One run from prepared parts to written results."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from csr.config.options import TrainConfig
from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import ImageStore
from csr.data.labels.summary import data_facts
from csr.data.transforms import stored_size
from csr.engine.device import inference_precision, local_device
from csr.engine.ds_config import zero_stage_of
from csr.engine.precision import Precision
from csr.evaluation import inference
from csr.evaluation.metrics import multilabel_metrics
from csr.evaluation.test_table import results_record, table_lines
from csr.evaluation.thresholds import measure_reference
from csr.model import CSR
from csr.model.sharing.card import target_probability
from csr.runtime import distributed
from csr.runtime.files import load_tensors, write_json
from csr.runtime.fingerprint import git_revision, versions
from csr.runtime.monitor import Monitor
from csr.runtime.signals import StopRequest
from csr.stages.base import Stage
from csr.stages.runner import StageRunner
from csr.training import build, inputs
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.state import Saved
from csr.training.logs.board_images import cam_figure, similarity_figure
from csr.training.quarantine import Quarantine
from csr.training.trainer import STAGE_NUMBER, Splits, Trainer, Weights, labels_of


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    config: TrainConfig
    found: inputs.Tables
    data: Splits
    test_store: ImageStore
    model: CSR
    precision: Precision
    ds_config: dict[str, Any]
    identity: dict[str, Any]
    quarantine: Quarantine


class dry_folder:
    """A temporary folder that all ranks of a dry run see, gone afterwards."""

    def __enter__(self) -> Path:
        self._path = Path(distributed.on_main(lambda: tempfile.mkdtemp(prefix="csr-dry-run-")))
        self._path.mkdir(exist_ok=True, parents=True)
        return self._path

    def __exit__(self, *_: object) -> None:
        distributed.barrier()
        if distributed.local_rank() == 0:
            shutil.rmtree(self._path)


class Run:
    """One run from built parts to written results."""

    def __init__(self, parts: Parts, folder: Path, *, stop: StopRequest, saved: Saved | None = None) -> None:
        self.config, self.folder, self.found, self.model = parts.config, folder, parts.found, parts.model
        self.precision, self.identity, self.stop, self._saved = parts.precision, parts.identity, stop, saved
        self.data = parts.data
        self._zero_stage = zero_stage_of(parts.ds_config, world_size=distributed.world_size())
        self.test = LabelledImages(parts.test_store, parts.found.test)
        if self.config.run.dry_run:
            self.test = LabelledImages(parts.test_store, parts.found.test, indices=self.test.indices[:8])
        self.train_table = parts.found.train.select(parts.found.train_indices)
        distributed.on_main(lambda: self._write_setup(parts.ds_config, parts.quarantine))
        self.monitor = Monitor(folder, first_step=saved.state.global_step + 1 if saved else None)
        self.trainer = Trainer(
            build.trainer_options(self.config, self.precision.name),
            data=self.data,
            ds_config=parts.ds_config,
            monitor=self.monitor,
            folder=folder,
            stop=stop,
            saved=saved,
            checkpoints=CheckpointFolder(
                folder, keep=self.config.run.keep_checkpoints, identity=self.identity
            ),
        )

    @property
    def _task_loss(self) -> str:
        return build.task_loss_of(self.config, self.found.train)

    def _write_setup(self, ds_config: dict[str, Any], quarantine: Quarantine) -> None:
        write_json(self.folder / "config.json", self.description())  # first: it says that this is a run
        write_json(self.folder / "deepspeed_config.json", ds_config)
        quarantine.write(self.folder)

    def description(self) -> dict[str, Any]:
        """What rebuilds and identifies this run: options, vocabulary, architecture, versions."""
        table, transform = self.found.train, self.data.eval_transform
        return {
            "options": self.identity["options"],
            "effective_batch": self.identity["effective_batch"],
            "batch_size_auto": self.identity.get(
                "batch_size_auto"
            ),  # why it is what it is; null: it was given
            "concept_names": list(table.concept_names),
            "target_names": list(table.target_names),
            "data": data_facts(
                table,
                self.found.test,
                train_indices=self.found.train_indices,
                val_indices=self.found.val_indices,
            ),
            "model": self.model.description(),
            "preprocessing": {
                "image_size": transform.size,
                "stored_size": stored_size(transform.size),
                "mean": list(transform.mean),
                "std": list(transform.std),
            },
            "task_loss": self._task_loss,
            "precision": self.precision._asdict(),
            "zero_stage": self._zero_stage,
            "world_size": distributed.world_size(),
            "versions": versions(),
            "git_revision": git_revision(),
        }

    def train(self) -> None:
        """The three stages, the test table, the results."""
        runner = StageRunner(self.model, self._build_stage)
        runner.run(self._train_stage, first=self._saved.state.stage if self._saved else StageRunner.ORDER[0])
        self.trainer.saver.weights(self.model.state_dict(), "final_model.pth")
        self._check_reload()
        self._measure_reference()
        results = self._test()
        distributed.on_main(lambda: write_json(self.folder / "results.json", results))
        summary = {k: v for k, v in results["summary"].items() if v is not None}
        self.monitor.hyperparameters(self.config.to_dict(), summary)
        self.monitor.close()
        if not self.config.run.dry_run:
            self.monitor.say(f"Results: {self.folder}")
            self.monitor.say(f"TensorBoard: tensorboard --logdir {self.folder / 'tensorboard'}")

    def _build_stage(self, name: str) -> Stage:
        epochs = self.trainer.options.epochs[name]
        self.monitor.say("")
        self.monitor.say(f"=== Stage {STAGE_NUMBER[name]}/3: {name} learning ({epochs} epochs) ===")
        stage = build.build_stage(
            name, config=self.config, model=self.model, train=self.train_table, say=self.monitor.say
        )
        weights = stage.label_weights()
        resumed = self._saved is not None and self._saved.state.stage == name
        if weights is not None and stage.label is not None and not resumed:
            named = zip(self.data.names[stage.label], weights.tolist(), strict=True)
            step = self.trainer.state.global_step
            self.monitor.gathered({f"{name}_pos_weight/{label}": w for label, w in named}, step=step)
        return stage

    def _train_stage(self, stage: Stage) -> Weights:
        weights = self.trainer.train_stage(stage)
        if stage.label is not None and distributed.is_main():
            self.model.load_state_dict(weights)
            draw = cam_figure if stage.label == "concept" else similarity_figure
            picture = draw(self.model, self.data.val, self.data.eval_transform, local_device())
            self.monitor.figure(f"{stage.name}/explanations", picture, step=self.trainer.state.global_step)
        return weights

    def _check_reload(self) -> None:
        """What was written is what was trained (and what a dry run promises)."""
        if distributed.is_main():
            self.model.load_state_dict(load_tensors(self.folder / "final_model.pth"))

    def _measure_reference(self) -> None:
        """Thresholds (from validation images) and median scores (from training images): reference.json."""
        rows = {name: self._predict(getattr(self.data, name), name.capitalize()) for name in ("train", "val")}
        train, val = labels_of(self.data.train), labels_of(self.data.val)
        val_probability_NT = target_probability(rows["val"]["logit"], task_loss=self._task_loss)
        reference = measure_reference(
            score_NKM=rows["train"]["score"],
            concept_NK=torch.from_numpy(train["concept"]),
            val_concept_probability_NK=rows["val"]["concept_logit"].sigmoid().numpy(),
            val_concept_NK=val["concept"],
            val_target_NT=val["target"],
            val_target_probability_NT=val_probability_NT.numpy(),
        )
        names = self.data.names
        record = reference.to_dict(concept_names=names["concept"], target_names=names["target"])
        distributed.on_main(lambda: write_json(self.folder / "reference.json", record))

    def _predict(self, dataset: LabelledImages, title: str) -> dict[str, torch.Tensor]:
        device = local_device()
        model = self.model.to(device).eval()

        def predict(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            output = model(batch["image"])
            score = output.similarity_scores
            return {"logit": output.logits, "concept_logit": output.concept_logits, "score": score}

        with inference_precision(self.precision.name, device):
            return inference.predict_rows(predict, self.trainer.validator.batches(dataset, title))

    def _test(self) -> dict[str, Any]:
        """Evaluate on the test images, on all ranks; print the table on rank 0."""
        rows, labels, names = self._predict(self.test, "Test"), labels_of(self.test), self.data.names
        concepts = multilabel_metrics(
            rows["concept_logit"].sigmoid().numpy(), labels["concept"], names=names["concept"]
        )
        probability_NT = target_probability(rows["logit"], task_loss=self._task_loss)
        targets = multilabel_metrics(probability_NT.numpy(), labels["target"], names=names["target"])
        self.monitor.say("")
        dry = " (dry run: numbers mean nothing)" if self.config.run.dry_run else ""
        self.monitor.say(f"=== Test set: {len(self.test)} images, best model of stage 3{dry} ===")
        for line in table_lines(concepts, targets):
            self.monitor.say(line)
        return results_record(concepts, targets, num_images=len(self.test))
