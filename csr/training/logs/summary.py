"""Lines that a run prints before it begins: data, model, arithmetic, batch."""

from __future__ import annotations

from typing import Any

from csr.config import recipes
from csr.config.options import TrainConfig
from csr.engine import device
from csr.engine.ds_config import zero_stage_of
from csr.engine.precision import Precision
from csr.model.baselines import Network
from csr.runtime import distributed
from csr.runtime.monitor import Monitor
from csr.training import inputs


def describe(
    config: TrainConfig,
    tables: inputs.Tables,
    model: Network,
    precision: Precision,
    monitor: Monitor,
    *,
    ds_config: dict[str, Any],
) -> None:
    """Print what is about to run."""
    optim, world = config.optim, distributed.world_size()
    if config.run.recipe is not None:
        monitor.say(recipe_line(config))
    monitor.say(images_line(tables))
    parameters = sum(p.numel() for p in model.parameters())
    height, width = model.backbone.map_size
    baseline = config.model.baseline
    monitor.say(
        f"Model: {model.backbone.label}, {parameters / 1e6:.1f} M parameters, "
        f"{model.backbone.channels} x {height} x {width} features, "
        + (f"M = {config.model.num_prototypes} prototypes" if baseline is None else f"baseline {baseline}")
    )
    monitor.say(f"Precision: {precision.name} ({precision.reason})")
    zero = zero_stage_of(ds_config, world_size=world)
    sharding = f"ZeRO-{zero}" if zero else "without ZeRO: one rank has nothing to shard"
    monitor.say(f"Engine: DeepSpeed, {sharding}")
    monitor.say(
        f"Batch: {optim.batch_size} per rank x {world} rank{'s' * (world > 1)} x {optim.accumulation} "
        f"accumulation = {optim.batch_size * world * optim.accumulation} effective, on {device.device_kind()}"
    )


def images_line(tables: inputs.Tables) -> str:
    """Return the line on images and labels; `20 of 100 training` where --num_images leaves some unused."""
    train, available = tables.train, len(tables.train) - len(tables.val_indices)
    number = len(tables.train_indices)
    return (
        f"Data: {number}{'' if number == available else f' of {available}'} training, "
        f"{len(tables.val_indices)} validation, {len(tables.test.image_ids)} test images; "
        f"K = {len(train.concept_names)} concepts, T = {len(train.target_names)} targets "
        f"({', '.join(train.target_names)})"
    )


def recipe_line(config: TrainConfig) -> str:
    """Return the recipe of a run, and the changes that its flags make."""
    name = str(config.run.recipe)
    flat = {option: value for group in config.to_dict().values() for option, value in group.items()}
    changed = ", ".join(f"--{option} {value}" for option, value in recipes.changes(name, flat).items())
    return f"Recipe: {name}, {recipes.MEANINGS[name]}" + (f" (changed: {changed})" if changed else "")
