"""The frozen values that the steps of a run's preparation return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from csr.config.options import TrainConfig
from csr.data.image_cache.store import ImageStore
from csr.engine.ds_config import DsFile, merge_ds_config
from csr.engine.precision import Precision
from csr.model.baselines import Network
from csr.runtime import distributed
from csr.training import inputs
from csr.training.checkpoints.resume_plan import Identity, Plan
from csr.training.checkpoints.run_folder import RunFolder
from csr.training.checkpoints.state import Saved
from csr.training.data import Splits
from csr.training.quarantine import Quarantine


@dataclass(frozen=True)
class Request:
    """The command line, checked as far as one rank alone can.

    Attributes:
        config: options; with `--batch_size auto` the whole effective batch in one micro step.
        auto_batch: whether `--batch_size auto` was given.
        ds_file: the user's DeepSpeed JSON; None takes the shipped one for the precision.
    """

    config: TrainConfig
    auto_batch: bool
    ds_file: DsFile | None


@dataclass(frozen=True)
class Arithmetic:
    """Precision and DeepSpeed JSON of the run, the same on all ranks."""

    precision: Precision
    ds_file: DsFile

    def ds_config(self, config: TrainConfig) -> dict[str, Any]:
        """Return the DeepSpeed JSON merged with the options that decide batch and clipping."""
        return merged(self.ds_file, config)


@dataclass(frozen=True)
class Start:
    """How the run starts: from the beginning, or from a checkpoint.

    Attributes:
        plan: begins or resumes.
        identity: of this run, its data not yet known.
        config: options, with the batch of the run that is resumed.
        auto_batch: whether `--batch_size auto` was given.
        keeps_batch: whether `config` has the micro batch that the resumed run measured.
        batch_reason: why that run chose it.
    """

    plan: Plan
    identity: Identity
    config: TrainConfig
    auto_batch: bool
    keeps_batch: bool = False
    batch_reason: str | None = None


@dataclass(frozen=True)
class Labels:
    """Label tables of the run, without the images of the quarantine.

    Attributes:
        tables: labels, files and split.
        quarantine: images that are left out.
        identity: of the run, with its data.
    """

    tables: inputs.Tables
    quarantine: Quarantine
    identity: Identity


@dataclass(frozen=True)
class Images:
    """Decoded images: those to train and validate on, and those of the test."""

    splits: Splits
    test_store: ImageStore


@dataclass(frozen=True)
class Fitted:
    """Options with the micro batch that the run takes, and its identity with them."""

    config: TrainConfig
    identity: Identity


@dataclass(frozen=True)
class Prepared:
    """All that a run is made of.

    Attributes:
        config: options as the run takes them.
        precision: of the arithmetic.
        ds_config: merged DeepSpeed JSON.
        tables: labels, files and split.
        quarantine: images that are left out.
        model: with its first weights.
        splits: training and validation images.
        test_store: decoded test images.
        identity: for its checkpoints.
        plan: begins or resumes.
        saved: the checkpoint that it resumes from.
        folder: of the results; untouched so far.
    """

    config: TrainConfig
    precision: Precision
    ds_config: dict[str, Any]
    tables: inputs.Tables
    quarantine: Quarantine
    model: Network
    splits: Splits
    test_store: ImageStore
    identity: Identity
    plan: Plan
    saved: Saved | None
    folder: RunFolder


def merged(ds_file: DsFile, config: TrainConfig) -> dict[str, Any]:
    """Return a DeepSpeed JSON with batch, accumulation and clipping of the options.

    Raises:
        InputError: the JSON contradicts them.
    """
    optim = config.optim
    return merge_ds_config(
        ds_file.parsed,
        name=ds_file.name,
        batch_size=optim.batch_size,
        accumulation=optim.accumulation,
        clip=optim.clip,
        world_size=distributed.world_size(),
    )
