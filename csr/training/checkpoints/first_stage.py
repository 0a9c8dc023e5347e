"""The first stage of a finished run, taken over by a baseline that has the same one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from csr.config.from_json import config_of
from csr.config.options import TrainConfig
from csr.data.labels.table import LabelTable
from csr.model.baselines import Network
from csr.model.sharing.claims import fill
from csr.model.sharing.config_file import read_config
from csr.runtime.errors import InputError
from csr.runtime.tensor_files import load_tensors
from csr.training.checkpoints.file_names import CONFIG

WEIGHTS = "best_model_stage1.pth"
PARTS = ("backbone.", "concept_head.")
# options that decide the first stage and the images that it was trained and validated on
DECIDING = (
    *("train_csv", "concept_cols", "target_cols", "reader_merge", "group_col", "drop_rare", "boxes_csv"),
    *("val_fraction", "folds", "fold", "seed", "image_size", "augment"),
    *("backbone_type", "model_name", "backbone_weights", "no_pretrained", "train_backbone", "concept_pool"),
    *("max_pos_weight", "box_weight", "lr", "epochs_stage1", "backbone_lr_scale", "layer_decay"),
    *("weight_decay", "warmup", "schedule", "clip"),
)
_FILES = ("train_csv", "boxes_csv", "backbone_weights")


def take_first_stage(model: Network, config: TrainConfig, train: LabelTable) -> str:
    """Fill backbone and concept head from the run of `--stage1_from`; return a line for the user.

    Args:
        model: a concept bottleneck.
        config: of this run.
        train: its training table.

    Raises:
        InputError: no finished first stage, other options or concepts than this run's, or other shapes.
    """
    folder = Path(str(config.model.stage1_from))
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(f"--stage1_from {folder}: no {WEIGHTS} in it: give output_dir/exp_name of a run")
    content = read_config(folder / CONFIG)
    earlier = config_of(content.get("options"), where=str(folder / CONFIG))
    old, new = _deciding(earlier), _deciding(config)
    differing = [f"--{name} was {old[name]}, now {new[name]}" for name in DECIDING if old[name] != new[name]]
    if differing:
        raise InputError(
            f"--stage1_from {folder}: its first stage has other options ({'; '.join(differing)}): give those"
        )
    if content.get("concept_names") != list(train.concept_names):
        raise InputError(f"--stage1_from {folder}: has other concepts than {train.path}: give the same table")
    state = load_tensors(file)
    if not isinstance(state, dict):
        raise InputError(f"{file}: not a state dict of tensors")
    own = model.state_dict()
    kept = {name: value for name, value in state.items() if str(name).startswith(PARTS)}
    rest = {name: value for name, value in own.items() if not name.startswith(PARTS)}
    fill(model, {**kept, **rest}, where=str(file))
    return f"Stage 1: taken over from {file}"


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """Return the deciding options; tables and weights by their file's name."""
    flat = {name: value for group in config.to_dict().values() for name, value in group.items()}
    named = {name: Path(flat[name]).name if flat[name] is not None else None for name in _FILES}
    return json.loads(json.dumps({name: named.get(name, flat[name]) for name in DECIDING}))
