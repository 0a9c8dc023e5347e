"""Whether a run begins, resumes or is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from csr.config.options import TrainConfig
from csr.runtime.json_file import read_json
from csr.training.checkpoints import checkpoint_folder
from csr.training.checkpoints.file_names import CONFIG, RESULTS

# options that move no weight, or whose effect is compared otherwise: data by its hash, batches by their
# product, the DeepSpeed JSON and the precision by what comes of them
MAY_DIFFER = {
    "train_csv",
    "test_csv",
    "train_dir",
    "test_dir",
    "boxes_csv",
    "workers",
    "image_cache",
    "cache_dir",
    "batch_size",
    "accumulation",
    "ds_config",
    "precision",
    "timeout",
    "max_skipped",
    "output_dir",
    "exp_name",
    "overwrite",
    "log_every",
    "dry_run",
    "resume",
    "save_every",
    "keep_checkpoints",
    "recipe",
    "effective_batch",
    "compile",
    "activation_checkpointing",
    "profile",
}

DS_MAY_DIFFER = {
    "zero_optimization",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "train_batch_size",
    "gradient_clipping",
}


@dataclass(frozen=True)
class Plan:
    """What a run does with its folder.

    Attributes:
        checkpoint: goes on from it; None begins anew.
        manifest: of the checkpoint.
        batch_size, accumulation: those that keep the effective batch of the checkpoint.
    """

    checkpoint: Path | None = None
    manifest: dict[str, Any] | None = None
    batch_size: int = 0
    accumulation: int = 0

    def adapted(self, config: TrainConfig) -> TrainConfig:
        """The options with this plan's batch."""
        if self.checkpoint is None:
            return config
        optim = replace(config.optim, batch_size=self.batch_size, accumulation=self.accumulation)
        return replace(config, optim=optim)


def identity(config: TrainConfig, *, ds_config: dict[str, Any], precision: str, world: int) -> dict[str, Any]:
    """What a checkpoint must share with the run that goes on from it; `config` as the user gave it."""
    optim = config.optim
    return {
        "options": config.to_dict(),
        "engine": {k: v for k, v in ds_config.items() if k not in DS_MAY_DIFFER},
        "precision": precision,
        "effective_batch": optim.batch_size * optim.accumulation * world,
        "world_size": world,
    }


def earlier_precision(config: TrainConfig) -> str | None:
    """What the run that would be gone on with computes in, None where there is none or it cannot be read."""
    run = config.run
    if run.overwrite or run.dry_run or run.resume == "never":
        return None
    try:
        if run.resume != "auto":
            return str(
                checkpoint_folder.named_by_user(Path(run.resume), say=lambda line: None)[1]["precision"]
            )
        if (config.folder / RESULTS).exists():
            return None
        return str(read_json(config.folder / CONFIG)["precision"]["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return None  # what is wrong with it is said when the run is planned


def _flat(options: dict[str, dict[str, Any]]) -> dict[str, Any]:
    plain = json.loads(json.dumps(options))  # tuples become lists, as in a file
    return {name: value for group in plain.values() for name, value in group.items()}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None or value is False else str(value)
