"""Every option of `csr train`, once: default, meaning and choices beside each other; frozen after parsing."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr.config import recipes
from csr.runtime.errors import InputError

AUTO = -(2**63)  # of a number that is found by measuring; nobody gives it by accident


def option(
    default: Any, meaning: str, *, choices: tuple[str, ...] | None = None, many: bool = False,
    auto: bool = False, alone: Any = None,
) -> Any:  # fmt: skip
    """One command-line flag: the field's name, its default and what it means.

    `auto`: the word is taken for the number `AUTO`. `alone`: the value of a flag that is given without one.
    """
    told = {"help": meaning, "choices": choices, "many": many, "auto": auto, "alone": alone}
    return field(default=default, metadata=told)


@dataclass(frozen=True)
class DataOptions:
    """data"""

    train_csv: str = option("labels_train.csv", "training labels: one row per image and reader")
    test_csv: str = option("labels_test.csv", "test labels, same columns")
    train_dir: str = option("train/", "folder of the training images (png, jpg, dcm)")
    test_dir: str = option("test/", "folder of the test images")
    boxes_csv: str | None = option(
        None, "boxes on training images (pixels of the original); turns on box supervision in stage 1"
    )
    concept_cols: tuple[str, ...] | None = option(
        None, "label columns that are concepts (default: all that are not targets)", many=True
    )
    target_cols: tuple[str, ...] | None = option(
        None, "label columns that are diagnoses (default: COPD, Pneumonia, ... found by name)", many=True
    )
    reader_merge: str = option(
        "any", "how the readers of an image are merged", choices=("any", "majority", "soft")
    )
    drop_rare: int = option(0, "drop concepts with fewer positive training images than this, with a notice")
    val_fraction: float = option(0.1, "share of the training images kept for validation")
    image_size: int = option(224, "side of the square model input, pixels")
    augment: str = option(
        "light", "training augmentation: light (affine, contrast), flip (light and mirror)",
        choices=("none", "light", "flip"),
    )
    workers: int = option(4, "threads that decode images")
    image_cache: str = option(
        "auto", "decoded images: auto (under output_dir/.cache), off, or a folder"
    )
    on_bad_image: str = option(
        "error",
        "missing and unreadable images: error stops and lists them; quarantine leaves up to 1 % of the "
        "training and of the test images out and lists them in quarantine.csv",
        choices=("error", "quarantine"),
    )


@dataclass(frozen=True)
class ModelOptions:
    """model"""

    backbone_type: str = option("medmae", "family of the backbone", choices=("medmae", "resnet50", "vit", "timm"))
    model_name: str = option("facebook/vit-mae-base", "hub id, local folder, timm name, or .pth/.safetensors file")
    backbone_weights: str | None = option(None, "local file with the backbone's pretrained weights")
    no_pretrained: bool = option(False, "start from random weights on purpose")
    num_prototypes: int = option(5, "M, prototypes per concept")
    embedding_dim: int = option(128, "D, width of the projected space")
    projector_blocks: int = option(3, "residual 1x1-convolution blocks of the projector")
    concept_pool: str = option("avg", "pooling of concept maps into logits", choices=("avg", "max", "lse"))


@dataclass(frozen=True)
class MethodOptions:
    """method"""

    max_pos_weight: float = option(20.0, "upper limit of negatives/positives weights")
    box_weight: float = option(0.1, "weight of the box loss in stage 1 (used with --boxes_csv)")
    gamma: float = option(1000.0, "sharpness of the soft assignment to prototypes, Eq. 6")
    lam: float = option(20.0, "scale of the contrastive softmax, Eq. 9")
    delta: float = option(0.1, "margin of the contrastive softmax, Eq. 9")
    margin_mode: str = option(
        "softtriple", "how the margin enters Eq. 9", choices=("softtriple", "paper", "none")
    )
    all_negatives: bool = option(
        False, "count an image's other present concepts as negatives too (default: they are masked)"
    )
    no_restart: bool = option(False, "leave dead prototypes dead (default: move them to badly covered vectors)")
    task_loss: str = option(
        "auto", "loss of stage 3; auto is bce unless every image has exactly one target",
        choices=("auto", "bce", "focal", "ce"),
    )


@dataclass(frozen=True)
class OptimOptions:
    """optimisation"""

    batch_size: int = option(
        16, "images per GPU (per rank) and step; effective = batch_size x ranks x accumulation; auto measures how "
        "many fit, and keeps --effective_batch by accumulation", auto=True,
    )
    accumulation: int = option(1, "micro batches per optimizer step")
    effective_batch: int | None = option(
        None, "images per optimizer step over all ranks, for --batch_size auto (default: 32)"
    )
    lr: float = option(1e-4, "base learning rate")
    epochs_stage1: int = option(10, "epochs of the concept stage")
    epochs_stage2: int = option(10, "epochs of the prototype stage")
    epochs_stage3: int = option(10, "epochs of the task stage")
    backbone_lr_scale: float | None = option(
        None, "backbone learning rate / lr (default: 0.1 if pretrained, 1 with --no_pretrained)"
    )
    prototype_lr_scale: float = option(10.0, "learning rate of stage 2 / lr")
    task_lr_scale: float = option(10.0, "learning rate of stage 3 (a linear layer on standardised scores) / lr")
    weight_decay: float = option(0.01, "AdamW weight decay; none on prototypes, norms and biases")
    warmup: float = option(0.05, "share of a stage's steps spent warming up")
    schedule: str = option("cosine", "learning rate after the warm-up", choices=("cosine", "constant"))
    clip: float = option(1.0, "gradient norm above which gradients are scaled down; 0 is off")


@dataclass(frozen=True)
class EngineOptions:
    """engine"""

    ds_config: str | None = option(None, "DeepSpeed JSON (default: the file in ds_configs/ for the precision)")
    precision: str = option(
        "auto",
        "arithmetic; auto takes fp16 on GPUs, bf16 on CPUs that have instructions for it, fp32 on others, or what "
        "--ds_config says",
        choices=("auto", "fp16", "bf16", "fp32"),
    )
    compile: bool = option(False, "compile the backbone's training step with torch.compile")
    activation_checkpointing: bool = option(
        False, "keep few activations of the backbone and compute them again in backward: less memory, more time"
    )
    max_skipped: int = option(20, "stop after this many skipped or non-finite steps in a row")
    cache: str = option(
        "auto",
        "what frozen layers compute: memory and disk compute it once per stage, off at every step (with "
        "augmentation); auto is memory, or disk where it would take more than a quarter of the free memory",
        choices=("auto", "memory", "disk", "off"),
    )
    cache_dir: str | None = option(None, "folder of --cache disk (default: output_dir/.cache/features)")
    cache_dtype: str = option("fp32", "how cached features are kept", choices=("fp32", "fp16"))
    cache_views: int = option(
        0, "augmented views of each training image that are cached; epochs take turns (0: the plain image)"
    )
    timeout: float = option(10.0, "minutes after which a silent or hanging rank ends the run on all ranks; may be 0.5")
    seed: int = option(0, "seed of split, order, augmentation and initial weights")


@dataclass(frozen=True)
class RunOptions:
    """run"""

    recipe: str | None = option(
        None, "a named set of defaults, the paper's or the training guide's; a flag that is given wins over it",
        choices=tuple(recipes.RECIPES),
    )
    output_dir: str = option("checkpoints", "results go to output_dir/exp_name/")
    exp_name: str = option("csr_exp", "name of this experiment")
    overwrite: bool = option(False, "replace the results of an earlier run of this name")
    resume: str = option(
        "auto", "auto: goes on with an unfinished run of the same name and options; never: does not; or the path of a "
        "checkpoint"
    )
    save_every: int = option(0, "optimizer steps between training checkpoints (0: at the end of epochs only)")
    keep_checkpoints: int = option(2, "how many of the last training checkpoints stay")
    log_every: int = option(10, "optimizer steps between TensorBoard points")
    profile: int = option(
        0, "optimizer steps of each stage in a torch profiler trace of rank 0 (0: none; without a number: 5)", alone=5
    )
    dry_run: bool = option(False, "check everything, run one step of every stage, save, load, and stop")


@dataclass(frozen=True)
class TrainConfig:
    """The resolved options of one run; groups are read as attributes, e.g. `config.data.train_csv`."""

    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    method: MethodOptions = MethodOptions()
    optim: OptimOptions = OptimOptions()
    engine: EngineOptions = EngineOptions()
    run: RunOptions = RunOptions()

    @property
    def folder(self) -> Path:
        return Path(self.run.output_dir) / self.run.exp_name

    @property
    def backbone_lr_scale(self) -> float:
        if self.optim.backbone_lr_scale is not None:
            return self.optim.backbone_lr_scale
        return 1.0 if self.model.no_pretrained else 0.1

    @property
    def epochs(self) -> dict[str, int]:
        """Epochs by stage name, in order."""
        optim = self.optim
        return {
            "concept": optim.epochs_stage1,
            "prototype": optim.epochs_stage2,
            "task": optim.epochs_stage3,
        }

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return dataclasses.asdict(self)


def groups() -> dict[str, type]:
    """{group name: its dataclass}, in the order of the help text."""
    return {f.name: type(f.default) for f in dataclasses.fields(TrainConfig)}


def flags() -> frozenset[str]:
    """All flags of `csr train`, with their two dashes."""
    return frozenset(f"--{f.name}" for group in groups().values() for f in dataclasses.fields(group))


def add_arguments(parser: argparse.ArgumentParser, *, recipe: str | None = None) -> None:
    """Add one flag per option, grouped; unset flags keep the dataclass's default.

    Args:
        parser: to add to.
        recipe: the help text tells its values as defaults (`from_namespace` applies it).
    """
    defaults = recipes.values_of(recipe)
    for group_class in groups().values():
        section = parser.add_argument_group(str(group_class.__doc__))
        for f in dataclasses.fields(group_class):
            _add_argument(section, f, default=defaults.get(f.name, f.default))
    # the deepspeed launcher passes it to every worker; ranks are read from the environment
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def named_recipe(argv: list[str] | None) -> str | None:
    """The recipe that a command line names, before it is parsed: the help text depends on it."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", nargs="?")
    return early.parse_known_args(argv)[0].recipe


def _add_argument(section: argparse._ArgumentGroup, f: dataclasses.Field, *, default: Any) -> None:
    name, meaning = f"--{f.name}", str(f.metadata["help"]).replace("%", "%%")
    if f.type == "bool":
        meaning += " (default: off)"
        section.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=meaning)
        return
    numbers: dict[str, Any] = {"int": int, "int | None": int, "float": float, "float | None": float}
    kind = numbers.get(str(f.type), str)
    shown = f" (default: {default})"
    if default is None:
        shown = "" if "(default: " in meaning else " (default: none)"
    extra: dict[str, Any] = {"choices": f.metadata["choices"]} if f.metadata["choices"] else {}
    if f.metadata["many"]:
        extra["nargs"] = "+"
    if "choices" not in extra:
        extra["metavar"] = kind.__name__.upper() if kind is not str else f.name.split("_")[-1].upper()
    if f.metadata["auto"]:
        kind, extra["metavar"] = int_or_auto, "INT|auto"
    if f.metadata["alone"] is not None:
        extra |= {"nargs": "?", "const": f.metadata["alone"]}
    section.add_argument(name, type=kind, default=argparse.SUPPRESS, help=meaning + shown, **extra)


def int_or_auto(text: str) -> int:
    """A whole number, or `AUTO` for the word."""
    try:
        return AUTO if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, or auto") from None


def from_namespace(namespace: argparse.Namespace) -> TrainConfig:
    """Build and check the configuration from parsed flags: what was given, else the recipe's, else defaults.

    Raises:
        InputError: a value out of range.
    """
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(namespace).items()}
    given = {**recipes.values_of(vars(namespace).get("recipe"), given=given), **given}
    built = {}
    for group_name, group_class in groups().items():
        names = {f.name for f in dataclasses.fields(group_class)}
        built[group_name] = group_class(**{k: v for k, v in given.items() if k in names})
    config = TrainConfig(**built)
    check_ranges(config)
    _check_ignored(config, given=set(vars(namespace)))
    return config


def check_ranges(config: TrainConfig) -> None:
    """Raise InputError, naming the flag, for a value that no run could use."""
    _check_positive(config)
    if not 0.0 < config.data.val_fraction < 1.0:
        raise InputError(f"--val_fraction {config.data.val_fraction}: give a share between 0 and 1, such as 0.1")
    if not 0.0 <= config.optim.warmup < 1.0:
        raise InputError(f"--warmup {config.optim.warmup}: give a share of steps from 0 to below 1")
    if config.engine.cache_views and (config.engine.cache == "off" or config.data.augment == "none"):
        raise InputError("--cache_views needs a cache and augmentation: leave --cache off or --augment none away")
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


def _check_ignored(config: TrainConfig, *, given: set[str]) -> None:
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
    "image_size", "num_prototypes", "embedding_dim", "max_pos_weight", "gamma", "lam", "batch_size",
    "accumulation", "lr", "epochs_stage1", "epochs_stage2", "epochs_stage3", "max_skipped", "timeout",
    "log_every", "prototype_lr_scale", "task_lr_scale", "workers", "keep_checkpoints", "effective_batch",
)
_NOT_NEGATIVE = (
    "drop_rare", "delta", "box_weight", "weight_decay", "clip", "seed", "backbone_lr_scale",
    "projector_blocks", "cache_views", "save_every", "profile",
)
# beyond these memory or a number format ends the run in a way that names no flag
_LARGEST = {
    "image_size": 4096, "num_prototypes": 10_000, "embedding_dim": 65_536, "projector_blocks": 100,
    "batch_size": 65_536, "accumulation": 65_536, "effective_batch": 2**24, "workers": 1024,
    "seed": 2**32 - 1, "timeout": 100_000.0, "cache_views": 1000,
}  # fmt: skip


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
