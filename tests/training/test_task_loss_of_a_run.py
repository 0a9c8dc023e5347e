"""A run has one task loss, which its whole table decides: training rows alone may ask for another one."""

from __future__ import annotations

import torch
from label_tables import table_of
from train_options import train_options

from csr.model import CSR
from csr.training import build

TABLE = table_of([[0, 1], [1, 0], [1, 1]], [[0, 1], [1, 0], [1, 1]])  # the last image has two diagnoses


def test_a_stage_trains_with_the_loss_of_the_run():
    config, lines = train_options(), []
    run_loss = build.task_loss_of(config, TABLE)
    rows = TABLE.select([0, 1])  # the last image validates
    assert (run_loss, build.task_loss_of(config, rows)) == ("bce", "ce")
    model = CSR(2, 2, 2, backbone_type="timm", model_name="test_resnet", image_size=64, embedding_dim=8)
    stage = build.build_stage(
        "task", config=config, model=model, train=rows, report=lines.append, task_loss=run_loss
    )
    assert lines[-1].startswith("Task loss: bce")
    logit, label = torch.tensor([[0.3, -0.2]]), torch.tensor([[1.0, 0.0]])
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(
        logit, label, pos_weight=stage.pos_weight_T, reduction="sum"
    )
    torch.testing.assert_close(stage.target_loss(logit, label), by_hand)
