"""`csr train`: flags -> checks -> three stages -> test table. What every launcher starts (`-m csr.train`)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from csr import __version__, build, config as options, distributed, engine, inference
from csr.checkpoint import load_tensors, write_json
from csr.command import Parser, exit_process, run_command
from csr.config import TrainConfig
from csr.data.dataset import LabelledImages
from csr.data.store import ImageStore
from csr.data.transforms import stored_size
from csr.engine_config import Precision, choose_precision, load_ds_config, merge_ds_config
from csr.errors import InputError
from csr.metrics import Metrics, multilabel_metrics
from csr.model import CSR
from csr.monitor import Monitor
from csr.snapshots import cam_figure, similarity_figure
from csr.stages.base import Stage
from csr.stages.runner import StageRunner
from csr.trainer import STAGE_NUMBER, Data, Trainer, Weights, labels_of

EPILOG = """examples:
  csr train --train_csv labels_train.csv --train_dir train/ --test_csv labels_test.csv --test_dir test/
  deepspeed --num_gpus 4 --module csr.train --batch_size 32 --lr 2e-4
  torchrun --standalone --nproc_per_node=2 -m csr.train --backbone_type resnet50 --model_name resnet50
exit codes: 0 done, 1 failed, 2 bad input"""
OUTPUTS = (
    "best_model_stage*.pth", "model_stage*_epoch*.pth", "final_model.pth", "config.json", "deepspeed_config.json",
    "metrics.jsonl", "results.json",
)  # fmt: skip


def parse(argv: list[str] | None) -> TrainConfig:
    import argparse

    parser = Parser(
        prog="csr train", description="Train CSR: concept, prototype and task stage, then test the best model.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    options.add_arguments(parser)
    return options.from_namespace(parser.parse_args(argv))


def main(argv: list[str] | None = None) -> int:
    distributed.adopt_launcher_environment()
    config = parse(argv)
    monitor = Monitor(None)
    precision = choose_precision(
        config.engine.precision, ds_config=config.engine.ds_config, device=engine.device_kind()
    )
    parsed, name = load_ds_config(config.engine.ds_config, precision.name)
    ds_config = merge_ds_config(
        parsed, name=name, batch_size=config.optim.batch_size, accumulation=config.optim.accumulation,
        clip=config.optim.clip, world_size=distributed.world_size(),
    )  # fmt: skip
    if distributed.world_size() > 1:
        engine.start(config.engine.timeout)
    distributed.on_main(lambda: check_folder(config))
    with distributed.errors_agreed():
        found = build.build_tables(config, monitor.say)
        build.task_loss_of(config, found.train)
    with distributed.errors_agreed():
        model = build.build_model(config, found.train, monitor.say)
    stores = build.build_stores(config, found)
    with distributed.errors_agreed():
        data = build.build_data(config, found, stores[0], model)
    if not engine.started():
        engine.start(config.engine.timeout)
    if config.engine.ds_config is not None:
        engine.check_config(ds_config, name)
    describe(config, found, model, precision, monitor)
    if config.run.dry_run:
        with dry_folder() as folder:
            Run(config, folder, found, data, stores[1], model, precision, ds_config).train()
        monitor.say("Dry run done: data, model, one step of every stage, saving and loading work.")
        return 0
    distributed.on_main(lambda: make_folder(config))
    Run(config, config.folder, found, data, stores[1], model, precision, ds_config).train()
    return 0


def check_folder(config: TrainConfig) -> None:
    """Raise InputError if results cannot be written there, or would replace some that nobody asked to replace."""
    folder = config.folder
    try:
        present = next((f for f in (folder, *folder.parents) if f.exists()), folder)
        filled = folder.is_dir() and any(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}: give another --output_dir or --exp_name") from None
    if not present.is_dir():
        raise InputError(f"{folder}: {present} is no folder: give another --output_dir or --exp_name")
    if not os.access(present, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: {present} cannot be written to: give another --output_dir")
    if filled and not config.run.overwrite:
        raise InputError(f"{folder}: holds results already: give another --exp_name, or --overwrite to replace them")


def make_folder(config: TrainConfig) -> None:
    """Create the result folder; with --overwrite remove what an earlier run of csr wrote there, nothing else."""
    folder = config.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in OUTPUTS:
            for old in folder.glob(pattern):
                old.unlink()
        if (folder / "tensorboard").is_dir():
            shutil.rmtree(folder / "tensorboard")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}: give another --output_dir or --exp_name") from None


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


def describe(
    config: TrainConfig, found: build.Tables, model: CSR, precision: Precision, monitor: Monitor
) -> None:
    """Say what is about to run, before it does."""
    train, optim, world = found.train, config.optim, distributed.world_size()
    monitor.say(
        f"Data: {len(found.train_indices)} training, {len(found.val_indices)} validation, "
        f"{len(found.test.image_ids)} test images; K = {len(train.concept_names)} concepts, "
        f"T = {len(train.target_names)} targets ({', '.join(train.target_names)})"
    )
    parameters = sum(p.numel() for p in model.parameters())
    height, width = model.backbone.map_size
    monitor.say(
        f"Model: {model.backbone.label}, {parameters / 1e6:.1f} M parameters, "
        f"{model.backbone.channels} x {height} x {width} features, M = {config.model.num_prototypes} prototypes"
    )
    monitor.say(f"Precision: {precision.name} ({precision.reason})")
    monitor.say(
        f"Batch: {optim.batch_size} per rank x {world} rank{'s' * (world > 1)} x {optim.accumulation} accumulation "
        f"= {optim.batch_size * world * optim.accumulation} effective, on {engine.device_kind()}"
    )


class Run:
    """One run from built parts to written results."""

    def __init__(
        self, config: TrainConfig, folder: Path, found: build.Tables, data: Data, test_store: ImageStore,
        model: CSR, precision: Precision, ds_config: dict[str, Any],
    ) -> None:  # fmt: skip
        self.config, self.folder, self.found, self.model = config, folder, found, model
        self.precision = precision
        self.monitor = Monitor(folder)
        self.data = data
        self.test = LabelledImages(test_store, found.test)
        if config.run.dry_run:
            self.test = LabelledImages(test_store, found.test, indices=self.test.indices[:8])
        self.train_table = found.train.select(found.train_indices)
        self.trainer = Trainer(
            build.trainer_options(config, precision.name), data=self.data, ds_config=ds_config,
            monitor=self.monitor, folder=folder,
        )  # fmt: skip
        distributed.on_main(lambda: self._write_setup(ds_config))

    def _write_setup(self, ds_config: dict[str, Any]) -> None:
        write_json(self.folder / "deepspeed_config.json", ds_config)
        write_json(self.folder / "config.json", self.description())

    def description(self) -> dict[str, Any]:
        """What rebuilds and identifies this run: options, vocabulary, architecture, versions."""
        table, transform = self.found.train, self.data.eval_transform
        return {
            "options": self.config.to_dict(),
            "concept_names": list(table.concept_names),
            "target_names": list(table.target_names),
            "model": self.model.description(),
            "preprocessing": {
                "image_size": transform.size, "stored_size": stored_size(transform.size),
                "mean": list(transform.mean), "std": list(transform.std),
            },
            "task_loss": build.task_loss_of(self.config, table),
            "precision": self.precision._asdict(),
            "world_size": distributed.world_size(),
            "versions": versions(),
            "git_revision": git_revision(),
        }

    def train(self) -> None:
        """The three stages, the test table, the results."""
        runner = StageRunner(self.model, self._build_stage)
        runner.run(self._train_stage)
        self.trainer.save(self.model.state_dict(), "final_model.pth")
        self._check_reload()
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
        return build.build_stage(
            name, config=self.config, model=self.model, train=self.train_table, say=self.monitor.say
        )

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

    def _test(self) -> dict[str, Any]:
        """Evaluate on the test images, on all ranks; print the table on rank 0."""
        device = engine.local_device()
        model = self.model.to(device).eval()

        def predict(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            output = model(batch["image"])
            return {"logit": output.logits, "concept_logit": output.concept_logits}

        size = 2 * self.config.optim.batch_size
        with engine.inference_precision(self.precision.name, device):
            batches = inference.image_batches(
                self.test, transform=self.data.eval_transform, batch_size=size, device=device
            )
            total = inference.num_batches(len(self.test), size)
            rows = inference.predict_rows(predict, self.monitor.bar(batches, total=total, title="Test"))
        test_labels = labels_of(self.test)
        loss = build.task_loss_of(self.config, self.found.train)
        probability = rows["logit"].softmax(-1) if loss == "ce" else rows["logit"].sigmoid()
        concepts = multilabel_metrics(
            rows["concept_logit"].sigmoid().numpy(), test_labels["concept"], names=self.data.names["concept"]
        )
        targets = multilabel_metrics(
            probability.numpy(), test_labels["target"], names=self.data.names["target"]
        )
        self._print_table(concepts, targets)
        summary = {f"concept_{k}": v for k, v in concepts.summary().items()}
        summary |= {f"target_{k}": v for k, v in targets.summary().items()}
        return {
            "summary": known(summary), "num_images": len(self.test),
            "concepts": by_label(concepts), "targets": by_label(targets),
        }  # fmt: skip

    def _print_table(self, concepts: Metrics, targets: Metrics) -> None:
        say = self.monitor.say
        say("")
        say(f"=== Test set: {len(self.test)} images, best model of stage 3 ===")
        width = max(len(name) for names in self.data.names.values() for name in names) + 2
        for title, metrics in (("concept", concepts), ("target", targets)):
            say(f"{title:<{width}} {'AUC':>7} {'AP':>7} {'F1':>7}")
            for name in metrics.auc_by_label:
                values = (metrics.auc_by_label[name], metrics.ap_by_label[name], metrics.f1_by_label[name])
                say(f"{name:<{width}} {' '.join(f'{v:>7.4f}' for v in values)}")
            say(f"{'macro':<{width}} {metrics.auc:>7.4f} {metrics.mean_ap:>7.4f} {metrics.f1_macro:>7.4f}")
            say(f"{'micro':<{width}} {'':>7} {'':>7} {metrics.f1_micro:>7.4f}")
            say("")


def by_label(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    return {
        name: known({"auc": auc, "ap": metrics.ap_by_label[name], "f1": metrics.f1_by_label[name]})
        for name, auc in metrics.auc_by_label.items()
    }


def known(values: dict[str, float]) -> dict[str, float | None]:
    """NaN (no value on these images) as null: JSON has no NaN."""
    return {k: None if v != v else v for k, v in values.items()}


def versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "deepspeed", "transformers", "timm", "numpy", "pandas", "pillow")
    return {"csr": __version__, "python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


def git_revision() -> str | None:
    """Revision of the source tree that csr runs from, None where it is installed from a package."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    exit_process(run_command(main))
