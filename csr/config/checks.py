"""Checks of options: each against its range, and against each other."""

from __future__ import annotations

from csr.config.option_field import AUTO, fields_of, problem_of
from csr.config.options import DataOptions, OptimOptions, TrainConfig
from csr.config.progressive import NONE, progressive
from csr.config.trackers import tracked
from csr.runtime.errors import InputError

LONGEST_NAME = 200  # bytes; file systems take 255, and files beside the folder have suffixes

_NO_PROTOTYPES = (
    *("num_prototypes", "embedding_dim", "projector_blocks", "gamma", "lam", "delta", "margin_mode"),
    *("all_negatives", "no_restart", "epochs_stage2", "prototype_lr_scale"),
)
_ONE_STAGE = (*_NO_PROTOTYPES, "epochs_stage3", "task_lr_scale")
_UNUSED = {
    "blackbox": (*_ONE_STAGE, "concept_pool", "picture_every"),
    "cbm": _NO_PROTOTYPES,
    "cbm-joint": _ONE_STAGE,
}


def unused_options(baseline: str | None) -> tuple[str, ...]:
    """Return the options that do nothing with a baseline; none of csr itself."""
    return _UNUSED.get(str(baseline), ())


def check_ranges(config: TrainConfig) -> None:
    """Raise InputError, naming the flag, for a value that no run could use."""
    for group in config.option_groups():
        for name, option in fields_of(group).items():
            value = getattr(group, name)
            problem = problem_of(value, option)
            if problem is not None:
                raise InputError(f"--{name} {value}: {problem}")
    if config.engine.cache_views and (config.engine.cache == "off" or config.data.augment == "none"):
        raise InputError("--cache_views needs a cache and augmentation: omit --cache off or --augment none")
    _check_folds(config.data)
    _check_baseline(config)
    if config.engine.deterministic and config.engine.compile:
        raise InputError(
            "--deterministic contradicts --compile, which times kernels and may choose others the next time: "
            "omit one of them"
        )
    _check_auto_batch(config.optim)
    _check_train_backbone(config.model.train_backbone)
    _check_progressive(config)
    _check_name(config.run.exp_name)
    tracked(config.run.track)


def _check_baseline(config: TrainConfig) -> None:
    model = config.model
    if model.stage1_from is not None and model.baseline != "cbm":
        raise InputError("--stage1_from is for --baseline cbm, the one with a first stage: omit it")
    if config.data.boxes_csv is not None and model.baseline in ("blackbox", "cbm-joint"):
        raise InputError(f"--boxes_csv belongs to stage 1, which --baseline {model.baseline} lacks: omit it")


def _check_folds(data: DataOptions) -> None:
    if data.folds is None and data.fold is not None:
        raise InputError(f"--fold {data.fold} needs --folds: give the number of folds")
    if data.folds is not None and (data.fold is None or data.fold >= data.folds):
        given = "--folds" if data.fold is None else f"--fold {data.fold} with --folds"
        raise InputError(f"{given} {data.folds}: give --fold from 0 to {data.folds - 1}, one for each run")


def _check_train_backbone(words: tuple[str, ...]) -> None:
    if words in (("all",), ("none",), ("norms",)):
        return
    if len(words) != 2 or words[0] != "last" or not words[1].isdecimal() or not 1 <= int(words[1]) <= 10_000:
        raise InputError(f"--train_backbone {' '.join(words)}: give all, none, norms, or last and a number")


def _check_progressive(config: TrainConfig) -> None:
    if progressive(config.optim.progressive) is not None and config.engine.compile:
        raise InputError(
            f"--progressive {config.optim.progressive}: --compile would compile every size anew, minutes "
            "each: omit --compile, or give --progressive none"
        )


def _check_name(name: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise InputError(f"--exp_name {name!r}: give a plain folder name; the place is --output_dir")
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        raise InputError(f"--exp_name {name[:20]!r}..: longer than {LONGEST_NAME} bytes: give a shorter one")


def check_ignored(config: TrainConfig, *, given: set[str]) -> None:
    """Raise InputError for a flag of the command line that another one makes do nothing."""
    cache = config.engine.cache
    reasons = {
        "val_fraction": config.data.folds is not None and "does nothing with --folds",
        "box_weight": config.data.boxes_csv is None and "needs --boxes_csv",
        "delta": config.method.margin_mode == "none" and "does nothing with --margin_mode none",
        "layer_decay": config.model.train_backbone == ("none",) and "does nothing with --train_backbone none",
        "backbone_lr_scale": config.model.train_backbone == ("none",)
        and "does nothing with --train_backbone none",
        "progressive": config.model.train_backbone == ("none",)
        and config.optim.progressive != NONE
        and "does nothing with --train_backbone none",
        "cache_dtype": cache == "off" and "does nothing with --cache off",
        "cache_dir": cache in ("off", "memory") and f"does nothing with --cache {cache}",
    }
    baseline = config.model.baseline
    reasons |= {name: f"does nothing with --baseline {baseline}" for name in unused_options(baseline)}
    for name, reason in reasons.items():
        if reason and name in given:
            raise InputError(f"--{name} {reason}: omit --{name}, or give what it needs")


def _check_auto_batch(optim: OptimOptions) -> None:
    if optim.batch_size == AUTO and optim.accumulation != 1:
        raise InputError(
            f"--batch_size auto finds the accumulation too: omit --accumulation {optim.accumulation} "
            "(--effective_batch is the number of images in a step)"
        )
    if optim.batch_size != AUTO and optim.effective_batch is not None:
        raise InputError(
            "--effective_batch is for --batch_size auto; otherwise it is batch_size x ranks x accumulation: "
            "omit one of them"
        )
