"""The CUSTOM SCALARS tab: every chart finds its curves and no other's."""

from __future__ import annotations

import re

import pytest

from csr.stages.baselines import BlackBoxStage, BottleneckStage, JointStage
from csr.stages.concept import ConceptStage
from csr.stages.prototype import PrototypeStage
from csr.stages.runner import STAGE_NUMBER, VALIDATED_BY
from csr.stages.task import TaskStage
from csr.training.logs.board_layout import board_layout
from csr.training.logs.epoch_report import MOST_SCALARS, bands

CSR = {"concept": 3, "prototype": 0, "task": 2}


def matches(chart: list, tags: list[str]) -> list[str]:
    """Tags that TensorBoard draws: it looks at their beginnings."""
    return [tag for tag in tags if any(re.match(pattern, tag) for pattern in chart[1])]


def test_charts_have_their_curves_alone():
    layout = board_layout(CSR, world_size=1)
    tags = ["task/loss", "task/box_loss", "task/loss_scale", "task_epoch/train_loss", "task_epoch/auc"]
    losses = layout["Losses"]
    assert matches(losses["3 task: loss of training steps"], tags) == ["task/loss", "task/box_loss"]
    assert matches(losses["3 task: loss of epochs"], tags) == ["task_epoch/train_loss"]
    each = layout["Metrics"]["1 concept: AUROC of each label"]
    assert matches(each, ["concept_auc/Nodule/Mass (small)", "task_auc/COPD"]) == [
        "concept_auc/Nodule/Mass (small)"
    ]
    assert not any("prototype: AUROC" in title for title in layout["Metrics"])


def test_several_ranks_have_bands_of_the_points_that_are_written():
    written = bands("task", [{"memory_mib": 1.0, "images_per_s": 4.0, "data_wait_s": 0.0}] * 2)
    charts = board_layout(CSR, world_size=2)["Time and memory of ranks"].values()
    margins = [tags for kind, tags in charts if kind == "Margin"]
    assert len(margins) == 9 and {t for tags in margins for t in tags if t.startswith("task_")} == set(
        written
    )
    assert {t.rsplit("/", 1)[1] for tags in margins for t in tags[:1]} == {"mean"}


def test_thousands_of_labels_have_no_chart_of_their_curves():
    layout = board_layout({"concept": MOST_SCALARS + 1}, world_size=1)
    assert not any("each label" in title for title in layout["Metrics"])


@pytest.mark.parametrize(
    "stage", [ConceptStage, PrototypeStage, TaskStage, BottleneckStage, JointStage, BlackBoxStage]
)
def test_stages_are_validated_by_the_labels_that_their_classes_name(stage):
    assert VALIDATED_BY[stage.name] == stage.label and stage.name in STAGE_NUMBER
