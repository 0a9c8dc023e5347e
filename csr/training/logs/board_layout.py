"""The CUSTOM SCALARS tab: one board of a run, by what is asked and not by how numbers are named."""

from __future__ import annotations

import re
from collections.abc import Mapping

from csr.stages.runner import STAGE_NUMBER
from csr.training.logs.epoch_report import BAND, MOST_SCALARS

Charts = dict[str, list]
Layout = dict[str, Charts]
RANK_CHARTS = {
    "images_per_s": "images/s of a rank",
    "data_wait_s": "seconds waited for data since the last point",
    "memory_mib": "memory of a rank, MiB",
}


def board_layout(stages: Mapping[str, int], *, world_size: int) -> Layout:
    """Return categories of charts for `SummaryWriter.add_custom_scalars`.

    Args:
        stages: name of each stage, in order -> how many labels validate it; 0: it is not validated.
        world_size: of several ranks time and memory are a band (mean, least, largest), of one a line.
    """
    validated = {name: labels for name, labels in stages.items() if labels}
    metrics: Charts = {}
    for name, labels in validated.items():
        title = f"{STAGE_NUMBER[name]} {name}"
        scores = [f"{name}_epoch/{score}" for score in ("auc", "map", "f1_macro", "f1_micro")]
        metrics[f"{title}: AUROC, AP, F1 of validation, mean over labels"] = _lines(*scores)
        if labels <= MOST_SCALARS:
            metrics[f"{title}: AUROC of each label"] = _matching(f"{name}_auc/.*")
    if "prototype" in stages:
        metrics["2 prototype: prototypes in use"] = _lines("prototype_epoch/prototypes_alive")
    calibration = {
        "expected calibration error of validation, before calibration": _lines(
            *(f"{name}_epoch/val_ece" for name in validated)
        ),
        "expected calibration error of test images, before and after": _matching("test/.*_ece.*"),
    }
    optimizer = {
        "learning rates": _matching(*(f"{name}/lr_.*" for name in stages)),
        "gradient norm before clipping": _lines(*(f"{name}/gradient_norm" for name in stages)),
    }
    return {
        "Losses": _losses(stages),
        "Metrics": metrics,
        "Calibration": calibration,
        "Optimizer": optimizer,
        "Time and memory of ranks": _ranks(stages, world_size),
    }


def _losses(stages: Mapping[str, int]) -> Charts:
    charts: Charts = {}
    for name, labels in stages.items():
        title, both = f"{STAGE_NUMBER[name]} {name}", f"{name}_epoch/"
        charts[f"{title}: loss of training steps"] = _matching(f"{name}/(.*_)?loss")
        splits = [f"{both}train_loss", *([f"{both}val_loss"] if labels else [])]
        charts[f"{title}: loss of epochs"] = _lines(*splits)
    return charts


def _ranks(stages: Mapping[str, int], world_size: int) -> Charts:
    charts: Charts = {}
    for name in stages:
        for key, meaning in RANK_CHARTS.items():
            title = f"{STAGE_NUMBER[name]} {name}: {meaning}"
            if world_size > 1:
                charts[f"{title}: mean, least, largest"] = [
                    "Margin",
                    [f"{name}_ranks/{key}/{of}" for of in BAND],
                ]
            else:
                charts[title] = _lines(f"{name}/{key}")
        charts[f"{STAGE_NUMBER[name]} {name}: shares of an epoch's time"] = _matching(f"{name}_time/.*_share")
    return charts


def _lines(*tags: str) -> list:
    return _matching(*(re.escape(tag) for tag in tags))


def _matching(*patterns: str) -> list:
    """Return a chart of all tags that match; TensorBoard itself looks at the beginnings of tags alone."""
    return ["Multiline", [f"{pattern}$" for pattern in patterns]]
