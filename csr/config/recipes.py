"""Named sets of `csr train` options: what the paper and the training guide state, and a shorter run.

A recipe replaces defaults; a flag that is given wins over it. What it does not name keeps csr's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # Huy et al., CVPR 2025: Secs. 3.1 and 4; Eq. 9 as it is printed, with the margin in the numerator only
    "paper": {
        "backbone_type": "timm",
        "model_name": "convnext_tiny",
        "num_prototypes": 100,
        "projector_blocks": 3,
        "concept_pool": "avg",
        "gamma": 1000.0,
        "lam": 20.0,
        "delta": 0.1,
        "margin_mode": "paper",
        "task_loss": "auto",
    },
    # the training guide's table of arguments
    "guide": {
        "train_csv": "labels_train.csv",
        "test_csv": "labels_test.csv",
        "train_dir": "train/",
        "test_dir": "test/",
        "batch_size": 16,
        "lr": 1e-4,
        "epochs_stage1": 10,
        "epochs_stage2": 10,
        "epochs_stage3": 10,
        "backbone_type": "medmae",
        "model_name": "facebook/vit-mae-base",
        "num_prototypes": 5,
        "output_dir": "checkpoints",
        "exp_name": "csr_exp",
    },
    # csr's defaults in less time; scripts/bench/README.md has what a short run lost by it
    "fast": {
        "progressive": "0.5:0.7",
        "precision": "auto",
    },
}
MEANINGS = {
    "paper": "the published setting: ConvNeXt-Tiny, 100 prototypes per concept, Eq. 9 as printed; "
    "cross-entropy where every image has exactly one target, else BCE",
    "guide": "the training guide's defaults",
    "fast": "images of stage 1 grow from half their side over the first 70 % of its steps; bf16 or fp16 on "
    "devices that have it",
}


def values_of(name: str | None, *, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the options that a recipe sets.

    Args:
        name: of `RECIPES`; None sets nothing.
        given: options that the user gave, which are left out. With a `backbone_type` that is not the
            recipe's, its `model_name` is left out too: it names a network of another family.
    """
    values, given = RECIPES.get(name or "", {}), given or {}
    family = values.get("backbone_type")
    left_out = {*given, "model_name"} if given.get("backbone_type", family) != family else {*given}
    return {option: value for option, value in values.items() if option not in left_out}


def changes(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run that differ from its recipe."""
    return {option: options[option] for option, value in RECIPES[name].items() if options[option] != value}


def help_text() -> str:
    """Return every recipe with its flags, for the end of the help text."""
    lines = ["recipes (a flag that is given wins):"]
    for name, values in RECIPES.items():
        flags = [f"--{option} {value}" for option, value in values.items()]
        lines.append(f"  {name}: {MEANINGS[name]}")
        lines += [f"    {'  '.join(flags[i : i + 4])}" for i in range(0, len(flags), 4)]
    return "\n".join(lines)
