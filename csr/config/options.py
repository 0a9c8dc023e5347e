"""Every option of `csr train`, once: default, meaning and choices beside each other; frozen after parsing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr.config import recipes
from csr.config.data_options import DataOptions
from csr.config.option_field import option
from csr.config.trackers import TENSORBOARD


@dataclass(frozen=True)
class ModelOptions:
    """model"""

    backbone_type: str = option(
        "medmae",
        "family of the backbone; hf is any image encoder of transformers",
        choices=("medmae", "resnet50", "vit", "timm", "hf"),
    )
    model_name: str = option(
        "facebook/vit-mae-base", "hub id, local folder, timm name, or .pth/.safetensors file"
    )
    backbone_weights: str | None = option(None, "local file with the backbone's pretrained weights")
    no_pretrained: bool = option(False, "start from random weights on purpose")
    num_prototypes: int = option(5, "M, prototypes per concept", above=0, at_most=10_000)
    embedding_dim: int = option(128, "D, width of the projected space", above=0, at_most=65_536)
    projector_blocks: int = option(
        3, "residual 1x1-convolution blocks of the projector", at_least=0, at_most=100
    )
    train_backbone: tuple[str, ...] = option(
        ("all",),
        "what stage 1 trains of the backbone: all; last N (blocks, and what follows them); norms; none (its "
        "feature maps are then computed once, see --cache)",
        many=True,
    )
    concept_pool: str = option(
        "avg",
        "pooling of concept maps into logits; lse learns small findings from random weights in fewer epochs",
        choices=("avg", "max", "lse"),
    )
    baseline: str | None = option(
        None,
        "train what CSR is compared with instead: a black box, or a concept bottleneck, its parts one after "
        "another or jointly (`csr baseline` sets it)",
        choices=("blackbox", "cbm", "cbm-joint"),
    )
    stage1_from: str | None = option(
        None, "folder of a finished run whose stage 1 is taken over (with --baseline cbm)"
    )


@dataclass(frozen=True)
class MethodOptions:
    """method"""

    max_pos_weight: float = option(
        20.0, "upper limit of negatives/positives weights", at_least=1, advice="give 1 (no balancing) or more"
    )
    box_weight: float = option(0.1, "weight of the box loss in stage 1 (used with --boxes_csv)", at_least=0)
    gamma: float = option(1000.0, "sharpness of the soft assignment to prototypes, Eq. 6", above=0)
    lam: float = option(20.0, "scale of the contrastive softmax, Eq. 9", above=0)
    delta: float = option(0.1, "margin of the contrastive softmax, Eq. 9", at_least=0)
    margin_mode: str = option(
        "softtriple", "how the margin enters Eq. 9", choices=("softtriple", "paper", "none")
    )
    all_negatives: bool = option(
        False, "count an image's other present concepts as negatives too (default: they are masked)"
    )
    no_restart: bool = option(
        False, "leave dead prototypes dead (default: move them to badly covered vectors)"
    )
    task_loss: str = option(
        "auto",
        "loss of stage 3; auto is bce unless every image has exactly one target",
        choices=("auto", "bce", "focal", "ce"),
    )


@dataclass(frozen=True)
class OptimOptions:
    """optimisation"""

    batch_size: int = option(
        16,
        "images per GPU (per rank) and step; effective = batch_size x ranks x accumulation; auto measures "
        "how many fit, and keeps --effective_batch by accumulation",
        auto=True,
        above=0,
        at_most=65_536,
    )
    accumulation: int = option(1, "micro batches per optimizer step", above=0, at_most=65_536)
    effective_batch: int | None = option(
        None,
        "images per optimizer step over all ranks, for --batch_size auto (default: 32)",
        above=0,
        at_most=2**24,
    )
    lr: float = option(1e-4, "base learning rate", above=0)
    epochs_stage1: int = option(10, "epochs of the concept stage", above=0)
    epochs_stage2: int = option(10, "epochs of the prototype stage", above=0)
    epochs_stage3: int = option(10, "epochs of the task stage", above=0)
    backbone_lr_scale: float | None = option(
        None, "backbone learning rate / lr (default: 0.1 if pretrained, 1 with --no_pretrained)", at_least=0
    )
    layer_decay: float = option(
        1.0,
        "learning rate of each backbone block / that of the block above it, as in the fine-tuning of MAE and "
        "BEiT (0.65 to 0.75 there); 1: the same everywhere",
        above=0,
        at_most=1,
    )
    prototype_lr_scale: float = option(10.0, "learning rate of stage 2 / lr", above=0)
    task_lr_scale: float = option(
        10.0, "learning rate of stage 3 (a linear layer on standardised scores) / lr", above=0
    )
    weight_decay: float = option(0.01, "AdamW weight decay; none on prototypes, norms and biases", at_least=0)
    warmup: float = option(
        0.05,
        "share of a stage's steps spent warming up",
        at_least=0,
        below=1,
        advice="give a share of steps from 0 to below 1",
    )
    progressive: str = option(
        "none",
        "START:FULL, such as 0.5:0.7: images of stage 1 grow from START of their side to all of it over the "
        "first FULL of its steps; none: full size throughout",
    )
    schedule: str = option("cosine", "learning rate after the warm-up", choices=("cosine", "constant"))
    clip: float = option(1.0, "gradient norm above which gradients are scaled down; 0 is off", at_least=0)


@dataclass(frozen=True)
class EngineOptions:
    """engine"""

    ds_config: str | None = option(
        None, "DeepSpeed JSON (default: the file in ds_configs/ for the precision)"
    )
    precision: str = option(
        "auto",
        "arithmetic; auto takes bf16 on devices that have it, fp16 on older GPUs, fp32 on other CPUs, or "
        "what --ds_config asks for",
        choices=("auto", "fp16", "bf16", "fp32"),
    )
    compile: bool = option(False, "compile the backbone's training step with torch.compile")
    deterministic: bool = option(
        False,
        "kernels whose sums have one order: on a GPU a resumed run then ends with the bits of one that was "
        "never stopped; slower, and refused where an operation has none",
    )
    activation_checkpointing: bool = option(
        False,
        "keep few activations of the backbone and compute them again in backward: less memory, more time",
    )
    max_skipped: int = option(20, "stop after this many skipped or non-finite steps in a row", above=0)
    cache: str = option(
        "auto",
        "what frozen layers compute: memory and disk compute it once per stage, off at every step (with "
        "augmentation); auto is memory, or disk where it would take more than a quarter of the free memory",
        choices=("auto", "memory", "disk", "off"),
    )
    cache_dir: str | None = option(None, "folder of --cache disk (default: output_dir/.cache/features)")
    cache_dtype: str = option("fp32", "how cached features are kept", choices=("fp32", "fp16"))
    cache_views: int = option(
        0,
        "augmented views of each training image that are cached; epochs take turns (0: the plain image)",
        at_least=0,
        at_most=1_000,
    )
    timeout: float = option(
        10.0,
        "minutes after which a silent or hanging rank ends the run on all ranks; may be 0.5",
        at_least=0.01,
        at_most=100_000,
        advice="give minutes, 0.01 or more",
    )
    seed: int = option(
        0, "seed of split, order, augmentation and initial weights", at_least=0, at_most=2**32 - 1
    )


@dataclass(frozen=True)
class RunOptions:
    """run"""

    recipe: str | None = option(
        None, "a named set of defaults; a flag that is given wins over it", choices=tuple(recipes.RECIPES)
    )
    output_dir: str = option("checkpoints", "results go to output_dir/exp_name/")
    exp_name: str = option("csr_exp", "name of this experiment")
    overwrite: bool = option(False, "replace the results of an earlier run of this name")
    resume: str = option(
        "auto",
        "auto: resumes an unfinished run of the same name and options; never: does not; or the path of a "
        "checkpoint",
    )
    save_every: int = option(
        0, "optimizer steps between training checkpoints (0: at the end of epochs only)", at_least=0
    )
    keep_checkpoints: int = option(2, "how many of the last training checkpoints stay", above=0)
    log_every: int = option(10, "optimizer steps between TensorBoard points", above=0)
    track: str = option(
        TENSORBOARD,
        "where the run is written down: one or several of tensorboard,mlflow,wandb",
    )
    picture_every: int = option(
        0,
        "epochs between pictures of validation images on the board (0: only at the end of stages)",
        at_least=0,
    )
    profile: int = option(
        0,
        "optimizer steps of each stage in a torch profiler trace of rank 0 (0: none; without a number: 5)",
        alone=5,
        at_least=0,
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
        first, second, third = self.optim.epochs_stage1, self.optim.epochs_stage2, self.optim.epochs_stage3
        return {
            None: {"concept": first, "prototype": second, "task": third},
            "blackbox": {"blackbox": first},
            "cbm": {"concept": first, "bottleneck": third},
            "cbm-joint": {"joint": first},
        }[self.model.baseline]

    def option_groups(self) -> list[Any]:
        """Return the groups in the order of the help text."""
        return [getattr(self, f.name) for f in dataclasses.fields(self)]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return dataclasses.asdict(self)


def groups() -> dict[str, type]:
    """Return {group name: its dataclass}, in the order of the help text."""
    return {f.name: type(f.default) for f in dataclasses.fields(TrainConfig)}
