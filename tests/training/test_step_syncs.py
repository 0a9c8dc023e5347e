"""A training step reads nothing from the device but at log intervals; attention is fused everywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F
from train_command import flags, start

from csr.data.prefetch import to_device
from csr.model.backbones.build import build_backbone

COUNTED = Path(__file__).parents[1] / "helpers" / "counted_reads.py"
EPOCHS = {"epochs_stage1": "1", "epochs_stage2": "1", "epochs_stage3": "1", "batch_size": "4"}


@pytest.mark.dist
def test_no_step_reads_a_number_between_log_intervals(phantom_folder, tmp_path):
    boxes = str(phantom_folder / "boxes_train.csv")
    given = flags(
        phantom_folder,
        tmp_path / "out",
        "--log_every",
        "1000000",
        "--boxes_csv",
        boxes,
        "--accumulation",
        "2",
        **EPOCHS,
    )
    answer = tmp_path / "reads.json"
    done = start(sys.executable, str(COUNTED), str(answer), *given)
    assert done.returncode == 0, done.stderr
    seen, steps = json.loads(answer.read_text())
    assert steps >= 5 and set(seen) == {"concept", "prototype", "task"}
    for stage, reads in seen.items():
        # the optimizer reads the gradient's norm, which decides whether there is a step; nothing else reads
        assert reads.pop("clipped_adamw.py:step") == steps, stage
        assert {line: n for line, n in reads.items() if n >= steps} == {}, stage


def test_batches_go_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch):
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: asked.append(kwargs) or self)
    batch = {"image": torch.zeros(2), "concept": torch.zeros(2), "scale": {"concept": 1.0}}
    to_device(batch, torch.device("cuda", 0))
    assert asked == [{"non_blocking": True}] * 2


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
}


@pytest.mark.parametrize("kind, name, blocks", [("medmae", "tiny", 3), ("timm", "test_vit", 6)])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_fused_in_every_vit_path(kind, name, blocks, training, monkeypatch):
    backbone = build_backbone(
        kind, name, image_size=64, architecture=SIZES if kind == "medmae" else None
    ).train(training)
    blocks = len(backbone.net.blocks) if kind == "timm" else blocks
    calls: list[tuple[int, ...]] = []
    original = F.scaled_dot_product_attention

    def counted(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(tuple(query.shape))
        return original(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    with torch.set_grad_enabled(training):
        backbone(torch.randn(2, 3, 64, 64))
    assert len(calls) == blocks


def test_the_vit_family_of_timm_that_users_name_is_fused():
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, global_pool="")
    attention = [m for m in net.modules() if type(m).__name__ == "Attention"]
    assert len(attention) == 12 and all(m.fused_attn for m in attention)
