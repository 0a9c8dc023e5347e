"""A trained model from wherever it is: an exported folder, a run's folder or one .pth in it, or the hub."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from csr.model import CSR
from csr.model.baselines import BASELINES, Network, build_baseline
from csr.model.sharing.card import card_from_dict, check_counts
from csr.model.sharing.claims import check_architecture, check_backbone, fill
from csr.model.sharing.config_file import CONFIG, read_config
from csr.model.sharing.pretrained import build_trained
from csr.model.sharing.reference import FILE_NAME as REFERENCE
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.runtime.tensor_files import load_tensors

BEST_CHECKPOINT = "best_model_stage3.pth"
# results.json and reference.json are about the best weights of stage 3, which final_model.pth holds too
_MEASURED = (BEST_CHECKPOINT, "final_model.pth")
_BEFORE_STAGE_3 = re.compile(r"(best_)?model_stage[12][._]")
_DATA_FILES = ("train_csv", "test_csv", "boxes_csv")
OF_THE_SPLIT = ("reader_merge", "group_col", "val_fraction", "folds", "fold", "num_images")  # and the seed
_DATA_OPTIONS = (*OF_THE_SPLIT, "drop_rare", "augment")


def load_model(source: str | Path, *, checkpoint: str | None = None) -> CSR:
    """Load a model in eval mode, on the CPU, with its `card`.

    Args:
        source: folder of `csr export`, folder of a run, a .pth with the run's config.json beside it, or a hub
            id.
        checkpoint: which .pth of a run; None: the best of stage 3.

    Raises:
        InputError: not found, or damaged; a checkpoint named for what is no run.
    """
    folder = Path(source)
    if folder.suffix == ".pth":
        return load_file(folder, checkpoint=checkpoint)
    if is_run(folder):
        return load_run(folder, checkpoint=checkpoint or BEST_CHECKPOINT)
    if checkpoint is not None:
        raise InputError(f"{source}: --checkpoint {checkpoint} belongs to the folder of a run")
    return CSR.from_pretrained(source)


def is_run(folder: Path) -> bool:
    """Return whether a folder is one that `csr train` wrote, by its config.json."""
    return os.path.isfile(folder / CONFIG) and "options" in read_config(folder / CONFIG)


def load_file(path: Path, *, checkpoint: str | None = None) -> CSR:
    """Load one .pth of a run, copied elsewhere together with the run's config.json or not.

    Raises:
        InputError: no such file, no config.json beside it, or not the checkpoint that is named besides.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if checkpoint not in (None, path.name):
        raise InputError(f"{path}: is a checkpoint itself: leave --checkpoint {checkpoint} out")
    if not (path.parent / CONFIG).is_file():
        raise InputError(f"{path}: the {CONFIG} of its run must lie beside it: copy it there")
    return load_run(path.parent, checkpoint=path.name)


def load_run(folder: Path, *, checkpoint: str = BEST_CHECKPOINT) -> CSR:
    """Load the model of a run's folder; the training data is not needed.

    Args:
        folder: output_dir/exp_name of `csr train`.
        checkpoint: name of a .pth in it.

    Raises:
        InputError: no run, no such checkpoint, one of another model, or the run of a baseline.
    """
    config, state, card, where = _read_run(folder, checkpoint)
    if baseline_of(config, where=where[0]) is not None:
        raise InputError(
            f"{folder}: is a baseline, without prototypes to explain: csr evaluate and csr compare read it"
        )
    return build_trained(CSR, config["model"], card=card, state=state, where=where)


def load_to_evaluate(source: str | Path, *, checkpoint: str | None = None) -> Network:
    """Load a model as `load_model` does, or the baseline of a run's folder.

    Args:
        source, checkpoint: see `load_model`.

    Raises:
        InputError: see `load_model`.
    """
    folder = Path(source)
    config_file = folder / CONFIG
    if not is_run(folder) or baseline_of(read_config(config_file), where=str(config_file)) is None:
        return load_model(source, checkpoint=checkpoint)
    config, state, card, where = _read_run(folder, checkpoint or BEST_CHECKPOINT)
    claimed = dict(config["model"])
    kind = str(claimed.pop("baseline"))
    unused = ("num_prototypes_per_concept", "embedding_dim", "projector_blocks")
    given = {**dict.fromkeys(unused, 1), **claimed}
    if kind == "blackbox":
        given = {"num_concepts": 1, "concept_pool": "avg", **given}
    checked = check_architecture(given, where[0])
    arguments = {name: value for name, value in checked.items() if name not in unused}
    read = card_from_dict(card, num_prototypes=1, where=where[0])
    num_concepts = len(read.concept_names) if kind == "blackbox" else checked["num_concepts"]
    sizes = (num_concepts, checked["num_classes"])
    check_counts(read, sizes=sizes, image_size=checked["image_size"], where=where[0])
    build = partial(build_baseline, kind)
    check_backbone(arguments, state, build=build, where=where)
    model = build(**arguments)
    fill(model, state, where=where[1])
    model.card = read
    return model.eval()


def baseline_of(config: dict[str, Any], *, where: str) -> str | None:
    """Return the baseline that a run's config.json describes, by its model; None of CSR.

    Raises:
        InputError: one that csr does not know.
    """
    model = config.get("model")
    kind = model.get("baseline") if isinstance(model, dict) else None
    if kind is not None and kind not in BASELINES:
        raise InputError(f"{where}: baseline {str(kind)[:40]!r}: one of {', '.join(BASELINES)}")
    return kind


def _read_run(
    folder: Path, checkpoint: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any], tuple[str, str]]:
    """Return config.json, a state dict, the card's parts, and the names of the two files."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give output_dir/exp_name of a run")
    config_file = folder / CONFIG
    config = read_config(config_file)
    options = config.get("options")
    if not isinstance(options, dict) or "model" not in config:
        raise InputError(f"{config_file}: not written by `csr train`")
    path = folder / checkpoint
    if Path(checkpoint).name != checkpoint:
        raise InputError(f"--checkpoint {checkpoint}: give the name of a file in {folder}")
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in folder.glob("*.pth"))) or "none"
        raise InputError(f"{path}: no such checkpoint; there are: {there}")
    state = load_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path}: not a state dict of tensors")
    card = {**config, **_notes(folder, config, options, checkpoint)}
    if _BEFORE_STAGE_3.match(checkpoint) and distributed.is_main():
        sys.stderr.write(f"csr: notice: {path} is from before stage 3: its diagnoses mean nothing yet\n")
    return config, state, card, (str(config_file), str(path))


def _notes(folder: Path, config: dict[str, Any], options: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """Return the parts of a card that a run's config.json does not have under the card's names."""
    measured = checkpoint in _MEASURED
    return {
        "reference": _optional(folder / REFERENCE) if measured else {},
        "metrics": _optional(folder / "results.json") if measured else {},
        "method": options.get("method"),
        "data": {**_data_notes(options), **_object(config.get("data"))},
        "provenance": {
            "checkpoint": checkpoint,
            **{key: config[key] for key in ("versions", "git_revision", "precision") if key in config},
        },
    }


def _data_notes(options: Any) -> dict[str, Any]:
    """Return what a run's options say about its data; folders are left out: they name who trained where."""
    given, engine = _object(options.get("data")), _object(options.get("engine"))
    files = {key: Path(given[key]).name for key in _DATA_FILES if isinstance(given.get(key), str)}
    kept = {key: given[key] for key in _DATA_OPTIONS if key in given}
    return {**files, **kept, **{key: engine[key] for key in ("seed",) if key in engine}}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _optional(path: Path) -> dict[str, Any]:
    return read_config(path) if path.is_file() else {}
