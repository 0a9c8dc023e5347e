"""The decision to begin, resume or refuse a run; the micro batch that keeps the effective one.

Called by rank 0 alone; nothing is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from csr.config.compared_options import OF_NO_MATTER, option_differences
from csr.config.options import TrainConfig
from csr.model.backbones.normalisation import Normalisation
from csr.runtime.errors import InputError
from csr.runtime.json_file import read_json
from csr.training.checkpoints import checkpoint_folder
from csr.training.checkpoints.file_names import CONFIG, RESULTS
from csr.training.checkpoints.run_folder import RunFolder

# beside what is of no matter, options whose effect is compared otherwise: data by its hash, batches by their
# product, the DeepSpeed JSON and the precision by their result
MAY_DIFFER = OF_NO_MATTER | {
    *("train_csv", "test_csv", "train_dir", "test_dir", "boxes_csv", "group_col"),
    *("batch_size", "accumulation", "effective_batch", "ds_config", "precision"),
}
DS_MAY_DIFFER = {
    "zero_optimization",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "train_batch_size",
    "gradient_clipping",
}
Report = Callable[[str], None]


@dataclass(frozen=True)
class Identity:
    """Options, arithmetic and data that a checkpoint shares with the run that resumes it.

    Attributes:
        options: as given by the user, by group.
        engine: merged DeepSpeed JSON without what may differ.
        precision: name of the arithmetic.
        effective_batch: images per optimizer step over all ranks.
        world_size: number of ranks.
        quarantine: images that are left out (`Quarantine.record`); None until they are known.
        data: hash of tables, split and image files; None until they are read.
        batch_size_auto: reason for the choice of `--batch_size auto`; None where a number was given.
        normalisation: mean and sd of the images; None until the backbone is known.
    """

    options: dict[str, Any]
    engine: dict[str, Any]
    precision: str
    effective_batch: int
    world_size: int
    quarantine: list[dict[str, Any]] | None = None
    data: str | None = None
    batch_size_auto: str | None = None
    normalisation: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """Return plain values for a checkpoint's manifest."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def normalised(self, by: Normalisation) -> Identity:
        """Return the identity of a run whose images are normalised so."""
        return replace(self, normalisation={"mean": list(by.mean), "std": list(by.std)})

    def with_batch(self, config: TrainConfig, reason: str | None) -> Identity:
        """Return the identity of a run whose micro batch was measured."""
        options = {**self.options, "optim": config.to_dict()["optim"]}
        return replace(self, options=options, batch_size_auto=reason)


def identity_of(config: TrainConfig, *, ds_config: dict[str, Any], precision: str, world: int) -> Identity:
    """Return the identity of a run before its data is read; `config` as given by the user."""
    optim = config.optim
    return Identity(
        options=config.to_dict(),
        engine={k: v for k, v in ds_config.items() if k not in DS_MAY_DIFFER},
        precision=precision,
        effective_batch=optim.batch_size * optim.accumulation * world,
        world_size=world,
    )


@dataclass(frozen=True)
class Plan:
    """The decision: from the beginning, or from a checkpoint.

    Attributes:
        checkpoint: to resume from; None begins anew.
        manifest: of the checkpoint.
        batch_size, accumulation: those that keep the effective batch of the checkpoint.
    """

    checkpoint: Path | None = None
    manifest: dict[str, Any] | None = None
    batch_size: int = 0
    accumulation: int = 0

    def adapted(self, config: TrainConfig) -> TrainConfig:
        """Return the options with this plan's batch."""
        if self.checkpoint is None:
            return config
        optim = replace(config.optim, batch_size=self.batch_size, accumulation=self.accumulation)
        return replace(config, optim=optim)

    @property
    def quarantine(self) -> Any:
        """Images that the checkpoint's run left out, as its manifest has them; None for a run that begins."""
        return None if self.manifest is None else self.manifest.get("quarantine")

    @property
    def normalisation(self) -> Normalisation | None:
        """Return that of the checkpoint's run; None for a run that begins.

        A run that did not record it took ImageNet's, whatever its weights.
        """
        if self.manifest is None:
            return None
        kept = self.manifest.get("normalisation")
        if kept is None:
            return Normalisation(source="ImageNet's, as this run began")
        mean, std = (tuple(float(v) for v in kept[name]) for name in ("mean", "std"))
        if (len(mean), len(std)) != (3, 3):
            raise ValueError("not of three channels")
        return Normalisation(mean, std, "as this run began")

    def check_data(self, data: str) -> None:
        """Raise InputError if the checkpoint was trained on data with another hash."""
        if self.manifest is not None and self.manifest["data"] != data:
            raise InputError(
                f"{self.checkpoint}: was trained on other data (tables or images have changed since): bring "
                "them back, give another --exp_name, or --overwrite to begin anew"
            )


def earlier_precision(config: TrainConfig) -> str | None:
    """Return the precision of the unfinished run that would be resumed, or None."""
    run = config.run
    if run.overwrite or run.dry_run or run.resume == "never":
        return None
    try:
        if run.resume != "auto":
            return str(
                checkpoint_folder.named_by_user(Path(run.resume), report=lambda _: None)[1]["precision"]
            )
        if (config.folder / RESULTS).exists():
            return None
        return str(read_json(config.folder / CONFIG)["precision"]["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return None  # reported when the run is planned


@dataclass(frozen=True)
class Planner:
    """Decides whether a run begins or resumes.

    Attributes:
        config: options as given by the user.
        own: identity of this run.
        folder: of its results.
        report: prints a line.
    """

    config: TrainConfig
    own: Identity
    folder: RunFolder
    report: Report

    def plan(self) -> Plan:
        """Return the plan; write nothing.

        Raises:
            InputError: the folder cannot be written, holds results that are not to be replaced, or an
                unfinished run that differs from this one.
        """
        self.folder.check_writable()
        run, content = self.config.run, self.folder.content()
        named = None if run.resume in ("auto", "never") else Path(run.resume)
        if run.overwrite and named is not None:
            raise InputError("--overwrite contradicts --resume PATH: give one of them alone")
        unfinished = content == "unfinished"
        if run.dry_run:
            if content != "nothing":
                self.report(f"{self.folder.path}: holds results, which a dry run leaves as they are")
            return Plan()
        if not run.overwrite and (content == "results" or (unfinished and run.resume == "never")):
            hint = " (--resume auto resumes it)" if unfinished else ""
            raise InputError(
                f"{self.folder.path}: holds results already{hint}: give another --exp_name, "
                "or --overwrite to replace them"
            )
        self.folder.lock_if_there()
        if run.overwrite:
            return Plan()
        if named is not None:
            checkpoint, manifest = checkpoint_folder.named_by_user(named, self.report)
            if unfinished and not self.folder.owns(checkpoint):
                raise InputError(
                    f"{self.folder.path}: holds another unfinished run: give another --exp_name with "
                    "--resume PATH"
                )
            return self._resumed(checkpoint, manifest)
        return self._newest() if unfinished else Plan()

    def _newest(self) -> Plan:
        """Resume the unfinished run of the folder, or begin it anew where it has saved nothing yet."""
        newest = checkpoint_folder.newest(self.folder.path / checkpoint_folder.FOLDER, self.report)
        if newest is not None:
            return self._resumed(*newest)
        self.compare(self._record_of_config())
        self.report(f"{self.folder.path}: an unfinished run without a checkpoint yet: it begins anew")
        return Plan()

    def _record_of_config(self) -> dict[str, Any]:
        """Return the part of an identity that config.json has of a run that saved no checkpoint."""
        file = self.folder.path / CONFIG
        try:
            written = read_json(file)
            precision = written["precision"]["name"]
            return {"options": written["options"], "precision": precision, "engine": self.own.engine}
        except (OSError, ValueError, LookupError, TypeError):
            raise InputError(
                f"{file}: cannot be read: give another --exp_name, or --overwrite to replace it"
            ) from None

    def _resumed(self, checkpoint: Path, manifest: dict[str, Any]) -> Plan:
        try:
            self.compare(manifest)
            batch_size, accumulation = self._batch(manifest)
            stage, epoch, step = manifest["stage"], manifest["epoch"], manifest["step_in_epoch"]
            is_over = epoch > self.config.epochs[stage]
            plan = Plan(checkpoint, manifest, batch_size, accumulation)
            _ = plan.normalisation  # readable
        except InputError:  # a ValueError too, and it says what differs
            raise
        except (LookupError, TypeError, AttributeError, ValueError):
            raise InputError(f"{checkpoint}: was written by another version of csr") from None
        place = (
            f"after the {stage} stage"
            if is_over
            else f"in the {stage} stage, epoch {epoch}, after step {step}"
        )
        self.report(f"{checkpoint}: resumes {place}")
        return plan

    def compare(self, earlier: dict[str, Any]) -> None:
        """Raise an InputError that lists every option that differs from an earlier run's and matters."""
        differences = option_differences(earlier["options"], self.own.options, may_differ=MAY_DIFFER)
        if earlier["precision"] != self.own.precision:
            differences.append(f"--precision was {earlier['precision']}, now {self.own.precision}")
        for key in sorted(set(earlier["engine"]) | set(self.own.engine)):
            was, now = earlier["engine"].get(key), self.own.engine.get(key)
            if json.dumps(was) != json.dumps(now):
                differences.append(f"--ds_config {key!r} was {json.dumps(was)}, now {json.dumps(now)}")
        if differences:
            raise InputError(
                f"{self.folder.path}: holds an unfinished run with other options: {'; '.join(differences)}: "
                "give the same ones to resume, another --exp_name, or --overwrite to replace it"
            )

    def _batch(self, manifest: dict[str, Any]) -> tuple[int, int]:
        """Return the batch size and accumulation that keep the checkpoint's effective batch here."""
        optim, world, effective = self.config.optim, self.own.world_size, manifest["effective_batch"]
        if effective < 1:
            raise LookupError("no effective batch")
        if self.own.effective_batch == effective:
            return optim.batch_size, optim.accumulation
        old = manifest["options"]["optim"]
        if (optim.batch_size, optim.accumulation) != (old["batch_size"], old["accumulation"]):
            raise InputError(
                f"--batch_size {optim.batch_size} x --accumulation {optim.accumulation} x {world} rank(s) is "
                f"{self.own.effective_batch}, but the effective batch of the run is {effective}"
            )
        if effective % world:
            raise InputError(
                f"{self.folder.path}: the effective batch of {effective} of the unfinished run cannot be "
                f"divided by {world} ranks: start a number of ranks that divides it"
            )
        share = effective // world
        fitting = (a for a in range(1, share + 1) if share % a == 0 and share // a <= optim.batch_size)
        accumulation = next(fitting)
        self.report(
            f"{world} rank(s) instead of {manifest['world_size']}: {share // accumulation} images per rank "
            f"and {accumulation} accumulation keep the effective batch of {effective}"
        )
        return share // accumulation, accumulation
