"""The engine of one stage: built for its parameter groups, restored from a checkpoint, generators seeded."""

from __future__ import annotations

from typing import Any

from csr.engine.engine import Engine
from csr.stages.base import Stage
from csr.stages.runner import STAGE_NUMBER
from csr.training.checkpoints.state import Saved, seed_generators, set_generators
from csr.training.trainer_options import TrainerOptions


def open_engine(
    stage: Stage,
    ds_config: dict[str, Any],
    options: TrainerOptions,
    *,
    total_steps: int,
    step: int,
    saved: Saved | None,
) -> Engine:
    """Return the engine around a stage. Collective.

    Args:
        stage: on the device, frozen as it trains.
        ds_config: merged DeepSpeed JSON.
        options: of the loop.
        total_steps: optimizer steps of the whole stage, for the schedule.
        step: optimizer steps of all stages so far.
        saved: the checkpoint that the stage resumes from.
    """
    engine = Engine(
        stage,
        param_groups=stage.param_groups(),
        ds_config=ds_config,
        lr_factor=lambda done: options.lr_factor(done, total_steps),
    )
    if saved is not None:
        engine.load_training_state(saved.engine)
    if saved is not None and saved.generators is not None:
        set_generators(saved.generators)
    else:
        seed_generators(options.seed, STAGE_NUMBER[stage.name], step)
    return engine
