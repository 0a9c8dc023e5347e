"""Options and checked inputs -> model, stages, trainer: the only file that knows both sides."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from csr.config.option_field import AUTO
from csr.config.options import TrainConfig
from csr.config.progressive import progressive
from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import ImageStore
from csr.data.labels.positive import is_positive
from csr.data.labels.table import LabelTable
from csr.data.transforms import EvalTransform, TrainTransform
from csr.engine.device import local_device
from csr.model import CSR
from csr.model.backbones.compiling import check_compiler
from csr.model.backbones.normalisation import Normalisation, find_native_size, find_normalisation
from csr.model.backbones.weights import fetch_architecture, load_backbone_weights
from csr.model.baselines import Network, build_baseline
from csr.model.layers import sync_norm
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.stages.base import Stage
from csr.stages.baselines import BlackBoxStage, BottleneckStage, JointStage
from csr.stages.concept import ConceptStage, positive_weights
from csr.stages.prototype import PrototypeStage
from csr.stages.task import TaskStage, choose_task_loss, task_weights
from csr.stages.trained_backbone import NONE, TrainedBackbone
from csr.training.checkpoints.first_stage import check_normalisation, take_first_stage
from csr.training.checkpoints.resume_plan import Plan
from csr.training.data import Splits
from csr.training.inputs import Report, Tables
from csr.training.schedule import SideSchedule, growing_sides


def build_model(
    config: TrainConfig, train: LabelTable, report: Report, *, precision: str = "fp32"
) -> Network:
    """Return the network, with pretrained backbone weights unless `--no_pretrained`.

    Args:
        config: of the run.
        train: names of concepts and targets.
        report: prints a line.
        precision: in fp16 norms get the twin that keeps fp32 statistics beside weights that ZeRO casts.

    Raises:
        InputError: an unknown backbone, a pooled or 1x1 map, weights that do not match or cannot be had, or
            a network that `--progressive` does not suit.
    """
    model_options = config.model
    architecture = fetch_architecture(
        model_options.backbone_type, model_options.model_name, weights_file=model_options.backbone_weights
    )
    torch.manual_seed(config.engine.seed)
    model = _random_network(config, train, architecture)
    if distributed.world_size() > 1:
        sync_norm.convert(model)
    elif precision == "fp16":
        sync_norm.convert(model, unknown_stay=True)
    if model_options.stage1_from is not None:
        report(take_first_stage(model, config, train))
    elif model_options.no_pretrained:
        if model_options.backbone_weights:
            raise InputError("--no_pretrained contradicts --backbone_weights: give one of them alone")
        report(f"Backbone {model.backbone.label}: random weights (--no_pretrained)")
    else:
        loaded = load_backbone_weights(
            model.backbone,
            backbone_type=model_options.backbone_type,
            model_name=model_options.model_name,
            weights_file=model_options.backbone_weights,
        )
        for line in loaded.lines:
            report(line)
    speed_up(model, config)
    measure_sides(model, config, report)
    return model


def _random_network(config: TrainConfig, train: LabelTable, architecture: dict[str, Any] | None) -> Network:
    options = config.model
    arguments: dict[str, Any] = {
        "num_concepts": len(train.concept_names),
        "num_classes": len(train.target_names),
        "backbone_type": options.backbone_type,
        "model_name": options.model_name,
        "image_size": config.data.image_size,
        "concept_pool": options.concept_pool,
        "architecture": architecture,
    }
    if options.baseline is not None:
        return build_baseline(options.baseline, **arguments)
    return CSR(
        **arguments,
        num_prototypes_per_concept=options.num_prototypes,
        embedding_dim=options.embedding_dim,
        projector_blocks=options.projector_blocks,
    )


def speed_up(model: Network, config: TrainConfig) -> None:
    """Apply `--compile` and `--activation_checkpointing`.

    Raises:
        InputError: the machine cannot compile, or the backbone cannot compute its activations again.
    """
    if config.engine.activation_checkpointing:
        model.backbone.recompute_activations()
    if config.engine.compile:
        check_compiler(local_device())
        model.backbone.compile_training()


def with_native_size(config: TrainConfig) -> TrainConfig:
    """Return the options with `--image_size auto` replaced by pixels.

    Raises:
        InputError: nothing tells what the backbone's weights were trained on.
    """
    if config.data.image_size != AUTO:
        return config
    size = find_native_size(config.model.backbone_type, config.model.model_name)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=size))


def measure_sides(model: Network, config: TrainConfig, report: Report) -> None:
    """Let the backbone take the smaller images of `--progressive`; a frozen one passes no image in stage 1.

    Raises:
        InputError: it takes images of one size only, or has no map of them.
    """
    words, backbone = progressive(config.optim.progressive), model.backbone
    if words is None:
        return
    if trained_backbone(config).part == NONE:
        report("Images of stage 1: full size (--train_backbone none: its maps are computed once)")
        return
    sides = growing_sides(backbone.image_size, start=words.start, stride=backbone.stride)
    if len(sides) == 1:
        raise InputError(
            f"--progressive {config.optim.progressive}: {backbone.label} has cells of {backbone.stride} px, "
            "no smaller size fits: give a smaller START, larger images, or --progressive none"
        )
    backbone.take_sides(sides)
    report(
        f"Images of stage 1: {sides[0]} to {sides[-1]} px, {sides[1] - sides[0]} at a time over the first "
        f"{100 * words.full:g} % of its steps (--progressive)"
    )


def side_schedule(model: Network, config: TrainConfig) -> SideSchedule | None:
    """Return the sides of stage 1's images that `measure_sides` has measured; None: full size throughout."""
    words = progressive(config.optim.progressive)
    if words is None or len(model.backbone.map_sizes) == 1:
        return None
    return SideSchedule(words.full, model.backbone.map_sizes)


def normalisation_of(config: TrainConfig, model: Network, plan: Plan, report: Report) -> Normalisation:
    """Return how images are normalised: as the resumed run did, else as the backbone's weights want it.

    Raises:
        InputError: the weights' preprocessor_config.json holds no normalisation, or the first stage that is
            taken over saw images of another one.
    """
    options = config.model
    chosen = plan.normalisation or find_normalisation(
        options.backbone_type,
        options.model_name,
        net=model.backbone.net,
        is_pretrained=not options.no_pretrained,
    )
    check_normalisation(config, chosen)
    report(chosen.line)
    return chosen


def build_data(
    config: TrainConfig,
    tables: Tables,
    store: ImageStore,
    model: Network,
    normalisation: Normalisation = Normalisation(),
) -> Splits:
    """Return training and validation images of one store, with their transforms.

    Raises:
        InputError: a box outside its image, or no box on a concept that its image has and that is seen.
    """
    size = config.data.image_size
    boxes = None
    if tables.boxes is not None:
        inside = tables.boxes.check_inside(store.original_sizes_N2)
        boxes = inside.in_square(store.frame_N4)
        present = [is_positive(tables.train.concept_NK[b.image_R, b.class_R]).any() for b in (inside, boxes)]
        if not present[0]:
            raise InputError(f"{boxes.path}: no box is on a concept that its image has: check the file")
        if not present[1]:
            raise InputError(
                f"{boxes.path}: no box lies in the central square of its image, which is all that --resize "
                "crop shows: give --resize letterbox"
            )
    train = LabelledImages(store, tables.train, indices=tables.train_indices, boxes=boxes)
    val = LabelledImages(store, tables.train, indices=tables.val_indices)
    return Splits(
        train=train,
        val=val,
        train_transform=TrainTransform(
            size, mean=normalisation.mean, std=normalisation.std, strength=config.data.augment
        ),
        eval_transform=EvalTransform(size, mean=normalisation.mean, std=normalisation.std),
        names={"concept": tables.train.concept_names, "target": tables.train.target_names},
        map_size=model.backbone.map_size,
        sides=side_schedule(model, config),
    )


def task_loss_of(config: TrainConfig, train: LabelTable) -> str:
    """Return the stage-3 loss of this run: bce, focal or ce.

    Raises:
        InputError: ce asked for, but some image has not exactly one target.
    """
    loss = choose_task_loss(config.method.task_loss, train.target_NT)
    if loss == "ce" and choose_task_loss("auto", train.target_NT) != "ce":
        raise InputError(
            f"--task_loss ce needs exactly one target in every row of {train.path}: use bce or focal"
        )
    return loss


def build_stage(
    name: str,
    *,
    config: TrainConfig,
    model: Any,
    train: LabelTable,
    report: Report,
    task_loss: str | None = None,
) -> Stage:
    """Return a stage around the model, with its part of the options.

    Args:
        name: concept, prototype or task; of a baseline: concept, bottleneck, joint or blackbox.
        config: of the run.
        model: for the stage.
        train: labels of the training images alone.
        report: prints a line.
        task_loss: of the run, which was chosen by its whole table; None: the one that `train` alone asks for.
    """
    method, optim = config.method, config.optim
    if name == "concept":
        weight_K = positive_weights(train.concept_NK, maximum=method.max_pos_weight)
        report(f"Positive weights: {weight_K.min():.2f} to {weight_K.max():.2f}")
        return ConceptStage(
            model,
            pos_weight_K=weight_K,
            lr=optim.lr,
            backbone_lr_scale=config.backbone_lr_scale,
            weight_decay=optim.weight_decay,
            box_weight=method.box_weight if config.data.boxes_csv else 0.0,
            trained=trained_backbone(config),
        )
    if name == "prototype":
        return PrototypeStage(
            model,
            gamma=method.gamma,
            lam=method.lam,
            delta=method.delta,
            margin_mode=method.margin_mode,
            mask_present=not method.all_negatives,
            restart=not method.no_restart,
            lr=optim.lr * optim.prototype_lr_scale,
            weight_decay=optim.weight_decay,
            seed=config.engine.seed,
        )
    loss = task_loss or task_loss_of(config, train)
    weight_T = task_weights(train.target_NT, loss=loss, maximum=method.max_pos_weight)
    report(f"Task loss: {loss}; class weights {weight_T.min():.2f} to {weight_T.max():.2f}")
    target: dict[str, Any] = {"loss": loss, "pos_weight_T": weight_T, "weight_decay": optim.weight_decay}
    if name in ("task", "bottleneck"):
        stage = TaskStage if name == "task" else BottleneckStage
        return stage(model, lr=optim.lr * optim.task_lr_scale, **target)
    target |= {"lr": optim.lr, "backbone_lr_scale": config.backbone_lr_scale}
    if name == "blackbox":
        return BlackBoxStage(model, trained=trained_backbone(config), **target)
    weight_K = positive_weights(train.concept_NK, maximum=method.max_pos_weight)
    report(f"Positive weights: {weight_K.min():.2f} to {weight_K.max():.2f}")
    return JointStage(model, pos_weight_K=weight_K, trained=trained_backbone(config), **target)


def trained_backbone(config: TrainConfig) -> TrainedBackbone:
    """Return what stage 1 trains of the backbone, as checked options say."""
    part, *rest = config.model.train_backbone
    return TrainedBackbone(part, int(rest[0]) if rest else 0, config.optim.layer_decay)
