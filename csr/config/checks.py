"""Checks of options against each other and against their ranges."""

from __future__ import annotations

from csr.config.options import AUTO, OptimOptions, TrainConfig
from csr.runtime.errors import InputError


def check_ranges(config: TrainConfig) -> None:
    """Raise InputError, naming the flag, for a value that no run could use."""
    _check_positive(config)
    if not 0.0 < config.data.val_fraction < 1.0:
        raise InputError(
            f"--val_fraction {config.data.val_fraction}: give a share between 0 and 1, such as 0.1"
        )
    if not 0.0 <= config.optim.warmup < 1.0:
        raise InputError(f"--warmup {config.optim.warmup}: give a share of steps from 0 to below 1")
    if config.engine.cache_views and (config.engine.cache == "off" or config.data.augment == "none"):
        raise InputError(
            "--cache_views needs a cache and augmentation: leave --cache off or --augment none away"
        )
    _check_auto_batch(config.optim)
    if config.method.max_pos_weight < 1.0:
        raise InputError(f"--max_pos_weight {config.method.max_pos_weight}: give 1 (no balancing) or more")
    if config.engine.timeout < 0.01:
        raise InputError(f"--timeout {config.engine.timeout:g}: give minutes, 0.01 or more")
    name = config.run.exp_name
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise InputError(f"--exp_name {name!r}: give a plain folder name; the place is --output_dir")
    if len(name.encode(errors="replace")) > 200:
        raise InputError(f"--exp_name {name[:20]!r}..: longer than 200 bytes: give a shorter one")


def check_ignored(config: TrainConfig, *, given: set[str]) -> None:
    """Raise InputError for a flag that somebody gave and that another one makes do nothing."""
    cache = config.engine.cache
    reasons = {
        "box_weight": config.data.boxes_csv is None and "needs --boxes_csv",
        "delta": config.method.margin_mode == "none" and "does nothing with --margin_mode none",
        "cache_dtype": cache == "off" and "does nothing with --cache off",
        "cache_dir": cache in ("off", "memory") and f"does nothing with --cache {cache}",
    }
    for name, why in reasons.items():
        if why and name in given:
            raise InputError(f"--{name} {why}: leave --{name} away, or give what it needs")


def _check_auto_batch(optim: OptimOptions) -> None:
    if optim.batch_size == AUTO and optim.accumulation != 1:
        raise InputError(
            f"--batch_size auto finds the accumulation too: leave --accumulation {optim.accumulation} away "
            "(--effective_batch says how many images make a step)"
        )
    if optim.batch_size != AUTO and optim.effective_batch is not None:
        raise InputError(
            "--effective_batch is for --batch_size auto; otherwise it is batch_size x ranks x accumulation: "
            "leave one of them away"
        )


_POSITIVE = (
    "image_size",
    "num_prototypes",
    "embedding_dim",
    "max_pos_weight",
    "gamma",
    "lam",
    "batch_size",
    "accumulation",
    "lr",
    "epochs_stage1",
    "epochs_stage2",
    "epochs_stage3",
    "max_skipped",
    "timeout",
    "log_every",
    "prototype_lr_scale",
    "task_lr_scale",
    "workers",
    "keep_checkpoints",
    "effective_batch",
)

_NOT_NEGATIVE = (
    "drop_rare",
    "delta",
    "box_weight",
    "weight_decay",
    "clip",
    "seed",
    "backbone_lr_scale",
    "projector_blocks",
    "cache_views",
    "save_every",
    "profile",
)

# beyond these memory or a number format ends the run in a way that names no flag
_LARGEST = {
    "image_size": 4096,
    "num_prototypes": 10_000,
    "embedding_dim": 65_536,
    "projector_blocks": 100,
    "batch_size": 65_536,
    "accumulation": 65_536,
    "effective_batch": 2**24,
    "workers": 1024,
    "seed": 2**32 - 1,
    "timeout": 100_000.0,
    "cache_views": 1000,
}


def _check_positive(config: TrainConfig) -> None:
    flat = {name: value for group in config.to_dict().values() for name, value in group.items()}
    for name in _POSITIVE:
        if flat[name] not in (None, AUTO) and not 0 < flat[name] < float("inf"):
            raise InputError(f"--{name} {flat[name]}: give a number above 0")
    for name in _NOT_NEGATIVE:
        if flat[name] is not None and not 0 <= flat[name] < float("inf"):
            raise InputError(f"--{name} {flat[name]}: give 0 or more")
    for name, largest in _LARGEST.items():
        if flat[name] is not None and flat[name] > largest:
            raise InputError(f"--{name} {flat[name]}: the largest is {largest:g}")
