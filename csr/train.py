"""`csr train`: flags -> checks -> three stages -> test table. What every launcher starts (`-m csr.train`)."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from csr.cli import cache
from csr.cli.exit_codes import Parser, exit_process, run_command
from csr.config import options, recipes
from csr.config.options import TrainConfig
from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import ImageStore
from csr.data.labels.summary import data_facts
from csr.data.transforms import stored_size
from csr.engine import cpu, engine
from csr.engine.ds_config import (
    Precision,
    choose_precision,
    load_ds_config,
    merge_ds_config,
    zero_stage_of,
)
from csr.evaluation import inference
from csr.evaluation.metrics import multilabel_metrics
from csr.evaluation.test_table import results_record, table_lines, target_probability
from csr.model import CSR
from csr.model.sharing.reference import measure_reference
from csr.runtime import distributed, fingerprint
from csr.runtime.errors import InputError, StoppedError
from csr.runtime.files import load_tensors, write_json
from csr.runtime.monitor import Monitor
from csr.runtime.progress import HERE
from csr.runtime.signals import StopRequest
from csr.stages.base import Stage
from csr.stages.runner import StageRunner
from csr.training import batch_size_finder, build, inputs
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.run_folder import Plan, RunFolder, earlier_precision, identity
from csr.training.checkpoints.state import Saved, load_saved
from csr.training.logs.board_images import cam_figure, similarity_figure
from csr.training.logs.summary import describe, git_revision, versions
from csr.training.quarantine import Quarantine, look_for_bad_images
from csr.training.trainer import STAGE_NUMBER, Data, Trainer, Weights, labels_of

EPILOG = """examples:
  csr train --train_csv labels_train.csv --train_dir train/ --test_csv labels_test.csv --test_dir test/
  deepspeed --num_gpus 4 --module csr.train --batch_size 32 --lr 2e-4
  torchrun --standalone --nproc_per_node=2 -m csr.train --backbone_type resnet50 --model_name resnet50
exit codes: 0 done, 1 failed, 2 bad input, 75 stopped by a signal: run the same command again"""
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


def parse(argv: list[str] | None) -> TrainConfig:
    import argparse

    parser = Parser(
        prog="csr train", epilog=f"{recipes.help_text()}\n{EPILOG}",
        description="Train CSR: concept, prototype and task stage, then test the best model.",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    options.add_arguments(parser, recipe=options.named_recipe(argv))
    return options.from_namespace(parser.parse_args(argv))


def main(argv: list[str] | None = None) -> int:
    distributed.adopt_launcher_environment()
    given = parse(argv)
    HERE.restart()
    with StopRequest().listening() as stop:
        return train(given, stop)


def train(given: TrainConfig, stop: StopRequest) -> int:
    """Check everything, then run; the result folder is not touched before all checks are passed."""
    monitor = Monitor(None)

    def progress(done: int, of: int) -> None:
        HERE.now(f"image {done} of {of}")
        stop.check(f"at image {done} of {of}, before training")

    precision = precision_for(given, cpu_has_bf16=cpu.computes_bf16())
    parsed, name = load_ds_config(given.engine.ds_config, precision.name)
    auto_batch = batch_size_finder.is_asked(given)
    if auto_batch:
        given = batch_size_finder.provisional(given, world=distributed.world_size())
    merged_with(parsed, name, given)  # a contradiction is told before any rank waits for another
    if distributed.world_size() > 1:
        engine.start(given.engine.timeout)
        flags = {k: v for group in given.to_dict().values() for k, v in group.items()}
        fingerprint.agree("their options", flags)
        fingerprint.agree("the version of csr: install the same one everywhere", fingerprint.of_code())
    (lacks_bf16,) = distributed.host_max([int(not cpu.computes_bf16())])  # all ranks compute in the same
    precision = precision_for(
        given, cpu_has_bf16=not lacks_bf16, earlier=distributed.on_main(lambda: earlier_precision(given))
    )
    fingerprint.agree("what suits their hardware: give --precision", {"precision": precision.name})
    parsed, name = load_ds_config(given.engine.ds_config, precision.name)
    ds_config = merged_with(parsed, name, given)
    mine = identity(given, ds_config=ds_config, precision=precision.name, world=distributed.world_size())
    folder = RunFolder(given, mine=mine, say=monitor.say)
    plan = distributed.on_main(folder.plan)
    config = plan.adapted(given)
    kept_batch = batch_size_finder.kept(plan.manifest, world=distributed.world_size()) if auto_batch else None
    if kept_batch is not None:
        config = batch_size_finder.with_batch(config, *kept_batch)
    ds_config = merged_with(parsed, name, config)
    recorded = None if plan.manifest is None else plan.manifest.get("quarantine")
    quarantine = look_for_bad_images(config, monitor.say, progress, recorded=recorded)
    mine["quarantine"] = quarantine.record()
    with distributed.errors_agreed():
        found = inputs.build_tables(config, monitor.say, progress, left_out=quarantine.left_out)
        build.task_loss_of(config, found.train)
        mine["data"] = found.fingerprint()
    check_data(mine["data"], plan)
    with distributed.errors_agreed():
        stop.check("before training")
        model = build.build_model(config, found.train, monitor.say)
    stores = inputs.build_stores(config, found, progress, opened_before=quarantine.stores)
    folder_of_images = inputs.image_cache(config)
    if folder_of_images is not None and (told := distributed.on_main(lambda: cache.notice(folder_of_images))):
        monitor.say(told)
    with distributed.errors_agreed():
        data = build.build_data(config, found, stores[0], model)
    if not engine.started():
        engine.start(config.engine.timeout)
    auto_reason = plan.manifest.get("batch_size_auto") if plan.manifest and kept_batch is not None else None
    if auto_batch and kept_batch is None:
        config, auto_reason = with_found_batch(config, found, data, model, precision.name, monitor)
        ds_config = merged_with(parsed, name, config)
    if auto_batch:
        mine["options"]["optim"] = config.to_dict()["optim"]
        mine["batch_size_auto"] = auto_reason
    if config.engine.ds_config is not None:
        engine.check_config(ds_config, name)
    describe(config, found, model, precision, monitor, ds_config=ds_config)
    with distributed.errors_agreed():
        stop.check("before training")
        saved = None
        if plan.checkpoint is not None:
            saved = load_saved(plan.checkpoint, accumulation=config.optim.accumulation)
    parts = Parts(config, found, data, stores[1], model, precision, ds_config, mine, quarantine)
    if config.run.dry_run:
        with dry_folder() as path:
            few = dataclasses.replace(parts, data=build.one_step_of(data, config))
            Run(few, path, stop=stop).train()
        monitor.say("Dry run done: data, model, one step of every stage, saving and loading work.")
        return 0
    distributed.on_main(lambda: folder.open(plan, saved))
    try:
        Run(parts, config.folder, stop=stop, saved=saved).train()
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise StoppedError(
            f"{config.folder}: cannot be written ({error.strerror}): what was saved before is whole; "
            "make room there, then the same command goes on"
        ) from None
    finally:
        folder.close()
    return 0


def precision_for(given: TrainConfig, *, cpu_has_bf16: bool, earlier: str | None = None) -> Precision:
    return choose_precision(
        given.engine.precision, ds_config=given.engine.ds_config, device=engine.device_kind(),
        cpu_has_bf16=cpu_has_bf16, earlier=earlier,
    )  # fmt: skip


def merged_with(parsed: dict[str, Any], name: str, config: TrainConfig) -> dict[str, Any]:
    return merge_ds_config(
        parsed, name=name, batch_size=config.optim.batch_size, accumulation=config.optim.accumulation,
        clip=config.optim.clip, world_size=distributed.world_size(),
    )  # fmt: skip


def with_found_batch(
    config: TrainConfig, found: inputs.Tables, data: Data, model: CSR, precision: str, monitor: Monitor
) -> tuple[TrainConfig, str]:
    """The options with the micro batch that fits all ranks, and why it is that one. Collective."""
    train = found.train.select(found.train_indices)
    stage = build.build_stage("concept", config=config, model=model, train=train, say=lambda line: None)
    device = engine.local_device()
    choice = batch_size_finder.find(
        stage.to(device), data, share=config.optim.batch_size, precision=precision, device=device
    )
    monitor.say(
        f"--batch_size auto: {choice.batch_size} images per rank and {choice.accumulation} accumulation "
        f"({choice.reason})"
    )
    return batch_size_finder.with_batch(config, choice.batch_size, choice.accumulation), choice.reason


def check_data(data: str, plan: Plan) -> None:
    """Raise InputError if ranks have different data, or a run would go on with other data."""
    fingerprint.agree("their data: the same tables and images must be on each host", data)
    if plan.manifest is not None and plan.manifest["data"] != data:
        raise InputError(
            f"{plan.checkpoint}: was trained on other data (tables or images have changed since): bring them "
            "back, give another --exp_name, or --overwrite to begin anew"
        )


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    config: TrainConfig
    found: inputs.Tables
    data: Data
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
            build.trainer_options(self.config, self.precision.name), data=self.data,
            ds_config=parts.ds_config, monitor=self.monitor, folder=folder, stop=stop, saved=saved,
            checkpoints=CheckpointFolder(
                folder, keep=self.config.run.keep_checkpoints, identity=self.identity
            ),
        )  # fmt: skip

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
            "batch_size_auto": self.identity.get("batch_size_auto"),  # why it is what it is; null: it was given
            "concept_names": list(table.concept_names),
            "target_names": list(table.target_names),
            "data": data_facts(
                table, self.found.test, train_indices=self.found.train_indices, val_indices=self.found.val_indices
            ),
            "model": self.model.description(),
            "preprocessing": {
                "image_size": transform.size, "stored_size": stored_size(transform.size),
                "mean": list(transform.mean), "std": list(transform.std),
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
            picture = draw(self.model, self.data.val, self.data.eval_transform, engine.local_device())
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
        reference = measure_reference(
            score_NKM=rows["train"]["score"], concept_NK=torch.from_numpy(train["concept"]),
            val_concept_probability_NK=rows["val"]["concept_logit"].sigmoid().numpy(),
            val_concept_NK=val["concept"], val_target_NT=val["target"],
            val_target_probability_NT=target_probability(rows["val"]["logit"], loss=self._task_loss),
        )  # fmt: skip
        names = self.data.names
        record = reference.to_dict(concept_names=names["concept"], target_names=names["target"])
        distributed.on_main(lambda: write_json(self.folder / "reference.json", record))

    def _predict(self, dataset: LabelledImages, title: str) -> dict[str, torch.Tensor]:
        device = engine.local_device()
        model = self.model.to(device).eval()

        def predict(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            output = model(batch["image"])
            score = output.similarity_scores
            return {"logit": output.logits, "concept_logit": output.concept_logits, "score": score}

        with engine.inference_precision(self.precision.name, device):
            return inference.predict_rows(predict, self.trainer.passes.batches(dataset, title))

    def _test(self) -> dict[str, Any]:
        """Evaluate on the test images, on all ranks; print the table on rank 0."""
        rows, labels, names = self._predict(self.test, "Test"), labels_of(self.test), self.data.names
        concepts = multilabel_metrics(
            rows["concept_logit"].sigmoid().numpy(), labels["concept"], names=names["concept"]
        )
        probability = target_probability(rows["logit"], loss=self._task_loss)
        targets = multilabel_metrics(probability, labels["target"], names=names["target"])
        self.monitor.say("")
        dry = " (dry run: numbers mean nothing)" if self.config.run.dry_run else ""
        self.monitor.say(f"=== Test set: {len(self.test)} images, best model of stage 3{dry} ===")
        for line in table_lines(concepts, targets):
            self.monitor.say(line)
        return results_record(concepts, targets, num_images=len(self.test))


if __name__ == "__main__":
    exit_process(run_command(main))
