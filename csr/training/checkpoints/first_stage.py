"""The first stage of a finished run, taken over by a baseline that has the same one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from csr.config.checks import unused_options
from csr.config.compared_options import OF_NO_MATTER, option_differences
from csr.config.from_json import config_of
from csr.config.options import TrainConfig
from csr.data.labels.summary import data_facts
from csr.data.labels.table import LabelTable
from csr.model.backbones.normalisation import Normalisation
from csr.model.baselines import Network
from csr.model.sharing.claims import fill
from csr.model.sharing.config_file import read_config
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.runtime.tensor_files import load_tensors
from csr.training.checkpoints.file_names import CONFIG, RESULTS
from csr.training.inputs import Report, Tables

FINGERPRINT = "training_fingerprint"
WEIGHTS = "best_model_stage1.pth"
PARTS = ("backbone.", "concept_head.")
# options without a part in the first stage; every other one decides it, or the images that it saw
OF_NO_PART = OF_NO_MATTER | {
    *unused_options("cbm"),  # of prototypes
    *("test_csv", "test_dir", "epochs_stage3", "task_lr_scale", "task_loss", "baseline", "stage1_from"),
    *("batch_size", "accumulation", "effective_batch"),  # compared by their product
    *("ds_config", "precision"),  # the arithmetic: weights of one are read in another
}
_CACHED = {"cache", "cache_dtype", "cache_views"}  # what stage 1 sees of an image, of a frozen backbone alone
_BY_NAME = ("train_csv", "train_dir", "boxes_csv", "backbone_weights")  # data may have moved


def take_first_stage(model: Network, config: TrainConfig, train: LabelTable) -> str:
    """Fill backbone and concept head from the run of `--stage1_from`; return a line for the user.

    Args:
        model: a concept bottleneck.
        config: of this run.
        train: its training table.

    Raises:
        InputError: no finished first stage, other options, images or concepts than this run's, or other
            shapes.
    """
    folder = Path(str(config.model.stage1_from))
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(f"--stage1_from {folder}: no {WEIGHTS} in it: give output_dir/exp_name of a run")
    if not (folder / RESULTS).is_file():  # the best epoch so far is none of a whole stage
        raise InputError(
            f"--stage1_from {folder}: has no {RESULTS}: it has not finished; its own command ends it"
        )
    content = read_config(folder / CONFIG)
    differing = _differences(content, config, where=str(folder / CONFIG))
    if differing:
        raise InputError(
            f"--stage1_from {folder}: its first stage has other options ({'; '.join(differing)}): give those"
        )
    if content.get("concept_names") != list(train.concept_names):
        raise InputError(f"--stage1_from {folder}: has other concepts than {train.path}: give the same table")
    number = _number_of_images(content)
    if number not in (None, len(train)):
        raise InputError(
            f"--stage1_from {folder}: its training table had {number} images, {train.path} has {len(train)}: "
            "give the same one"
        )
    state = load_tensors(file)
    if not isinstance(state, dict):
        raise InputError(f"{file}: not a state dict of tensors")
    own = model.state_dict()
    kept = {name: value for name, value in state.items() if str(name).startswith(PARTS)}
    rest = {name: value for name, value in own.items() if not name.startswith(PARTS)}
    fill(model, {**kept, **rest}, where=str(file))
    return f"Stage 1: taken over from {file}"


def check_training_data(config: TrainConfig, tables: Tables, report: Report) -> None:
    """Refuse a first stage of other training images, labels, boxes or another split than this run's.

    An image that it was trained on must not validate here. Of a run that did not record a hash of them the
    numbers of images and labels of each side are compared, as far as it recorded those.

    Args:
        config: of this run; without `--stage1_from` there is nothing to check.
        tables: of this run.
        report: prints a line.

    Raises:
        InputError: they differ.
    """
    if config.model.stage1_from is None:
        return
    folder = Path(config.model.stage1_from)
    content = read_config(folder / CONFIG)
    if FINGERPRINT in content:
        is_same = content[FINGERPRINT] == tables.training_fingerprint()
    else:
        split = {"train_indices": tables.train_indices, "val_indices": tables.val_indices}
        earlier, own = _counts(content.get("data")), _counts(data_facts(tables.train, tables.test, **split))
        is_same = earlier is None or earlier == own
    if not is_same:
        raise InputError(
            f"--stage1_from {folder}: {tables.train.path} has other images, labels, boxes or another split "
            "than it was trained on: give the same tables, or train stage 1 here (omit --stage1_from)"
        )
    if FINGERPRINT not in content:
        report(
            f"Notice: {folder} recorded no hash of its training images (an older run): whether this run has "
            "the same split could not be checked"
        )


def _counts(data: Any) -> Any:
    """Return the numbers of images and labels of training and validation; None where not recorded."""
    images, labels = (data.get(key) if isinstance(data, dict) else None for key in ("images", "labels"))
    if not isinstance(images, dict) or not isinstance(labels, dict):
        return None
    rows = {name: row if isinstance(row, dict) else {} for name, row in labels.items()}
    sides = ("train", "val")
    return [images.get(side) for side in sides], {n: [r.get(s) for s in sides] for n, r in rows.items()}


def check_normalisation(config: TrainConfig, chosen: Normalisation) -> None:
    """Raise InputError where the first stage that is taken over saw images of another mean or sd.

    Args:
        config: of this run; without `--stage1_from` there is nothing to check.
        chosen: of this run.
    """
    if config.model.stage1_from is None:
        return
    file = Path(config.model.stage1_from) / CONFIG
    earlier = read_config(file).get("preprocessing")
    if not isinstance(earlier, dict):  # of a run that did not record it
        return
    for name, own in (("mean", chosen.mean), ("std", chosen.std)):
        values = earlier.get(name)
        if not isinstance(values, list) or [type(v) in (int, float) for v in values] != [True] * 3:
            raise InputError(f"{file}: no {name} of three channels in 'preprocessing'")
        if not all(math.isclose(was, now, rel_tol=1e-6) for was, now in zip(values, own, strict=True)):
            raise InputError(
                f"--stage1_from {file.parent}: its images were normalised by {name} "
                f"{' '.join(f'{v:.4g}' for v in values)}, these by {' '.join(f'{v:.4g}' for v in own)} "
                f"({chosen.source}): give the same backbone's files"
            )


def _differences(content: dict[str, Any], config: TrainConfig, *, where: str) -> list[str]:
    """Return a text for each option that decides the first stage and was another one."""
    earlier = config_of(content.get("options"), where=where)
    may_differ = OF_NO_PART | (_CACHED if config.model.train_backbone != ("none",) else frozenset())
    found = option_differences(_compared(earlier), _compared(config), may_differ=may_differ)
    optim = config.optim
    images = optim.batch_size * optim.accumulation * distributed.world_size()
    if content.get("effective_batch") not in (None, images):
        found.append(f"images per step were {content['effective_batch']}, now {images}")
    return found


def _compared(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Return options by group: of data and weights the last name, of defaults and caches what they mean."""
    options = config.to_dict()
    for group in options.values():
        named = {name: group[name] for name in _BY_NAME if group.get(name) is not None}
        group.update({name: Path(path).absolute().name for name, path in named.items()})
    options["optim"]["backbone_lr_scale"] = config.backbone_lr_scale
    options["engine"]["cache"] = "off" if config.engine.cache == "off" else "on"
    return options


def _number_of_images(content: dict[str, Any]) -> int | None:
    """Return the number of images in a run's training table; None of a run that did not record it."""
    data = content.get("data")
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, dict):
        return None
    counts = [images.get(name, 0) for name in ("train", "val", "unused")]
    return sum(counts) if all(type(count) is int for count in counts) else None
